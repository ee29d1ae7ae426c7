"""Python interpreters of a wanted version on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from perturbfm_core.errors import ExternalError

_ASK = (
    "import importlib.util as u, json, sys;"
    "print(json.dumps(['%d.%d' % sys.version_info[:2], u.find_spec('ensurepip') is not None]))"
)


def clean_environment() -> dict[str, str]:
    """Return the variables of this process without those that lead another interpreter to this one's packages."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {k: v for k, v in os.environ.items() if k not in dropped}


def version_of(python: Path) -> tuple[str, bool] | None:
    """Return the minor version of an interpreter and whether it can bring pip along, None if it does not run."""
    try:
        done = subprocess.run(  # noqa: S603 - an interpreter, asked for its version
            [python, "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=60,
            env=clean_environment(),
            check=True,
        )
        version, has_pip = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return str(version), bool(has_pip)


def find_interpreter(
    version: str, given: Path | None = None, *, with_pip: bool = False, uv: str = ""
) -> Path:
    """Return an interpreter of a version.

    Parameters
    ----------
    version
        Minor version, such as ``3.11``.
    given
        The one that the user names; by default it is looked for: this process's own, on PATH, under pyenv, and what
        uv knows. None is downloaded.
    with_pip
        Whether it must be able to make an environment with pip in it (some distributions split that off).
    uv
        The program uv, "" without it.

    Raises
    ------
    ExternalError
        If there is none, or the given one is not of that version.
    """
    if given is not None:
        return _checked(given, version, with_pip)
    seen: set[Path] = set()
    for python in _candidates(version, uv):
        if python in seen:
            continue
        seen.add(python)
        found = version_of(python)
        if found is not None and found[0] == version and (found[1] or not with_pip):
            return python
    msg = (
        f"no Python {version} is found (on PATH, under pyenv or by uv); install one, "
        f"or name it with --python PATH"
    )
    raise ExternalError(msg)


def _checked(given: Path, version: str, with_pip: bool) -> Path:
    python = Path(shutil.which(given) or given).absolute()
    found = version_of(python)
    if found is None:
        msg = f"--python {given} is not a Python interpreter that runs; name one of Python {version}"
        raise ExternalError(msg)
    if found[0] != version:
        msg = (
            f"--python {given} is Python {found[0]}; the lock of this model needs Python {version}, name one"
        )
        raise ExternalError(msg)
    if with_pip and not found[1]:
        msg = f"--python {given} has no ensurepip, so pip cannot be put into an environment; install uv, or name another Python {version}"
        raise ExternalError(msg)
    return python


def _candidates(version: str, uv: str) -> Iterator[Path]:
    """Yield interpreters that may be of a version, the likeliest first."""
    # Inside a virtual environment this is the interpreter that it was made from.
    own = getattr(sys, "_base_executable", None) or sys.executable
    if version == f"{sys.version_info.major}.{sys.version_info.minor}" and own:
        yield Path(own)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        python = Path(folder, f"python{version}")
        if folder and os.access(python, os.X_OK):
            yield python.absolute()
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)
    if uv:
        environment = {**clean_environment(), "UV_PYTHON_DOWNLOADS": "never"}
        try:
            done = subprocess.run(  # noqa: S603 - uv, as it was found
                [uv, "python", "find", "--no-project", version],
                capture_output=True,
                text=True,
                timeout=60,
                env=environment,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return
        if done.stdout.strip():
            yield Path(done.stdout.strip())
