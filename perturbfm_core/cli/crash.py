"""Files that describe an unexpected error: traceback, command line and versions."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from perturbfm_core import __version__
from perturbfm_core.errors import PerturbFMError

FOLDER = "crashes"
# The packages that read and write files or compute; their versions are what a report needs first.
_PACKAGES = ("numpy", "pandas", "scipy", "anndata", "h5py", "zarr", "pyarrow", "duckdb", "pydantic", "torch")


def write_crash(error: BaseException, arguments: Sequence[str]) -> Path | None:
    """Write what an unexpected error was and return the file, None where none can be written.

    The file is in ``crashes/`` of the home of the artifact store, or of the temporary folder where that cannot be
    written.
    """
    from perturbfm_core.store.atomic import write_atomic

    text = crash_text(error, arguments).encode("utf-8", "backslashreplace")
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for root in (Path(os.environ.get("PERTURBFM_HOME") or "."), Path(tempfile.gettempdir()) / "perturbfm"):
        with contextlib.suppress(OSError, ValueError, PerturbFMError):
            write_atomic(root / FOLDER / name, text)
            return root / FOLDER / name
    return None


def crash_text(error: BaseException, arguments: Sequence[str]) -> str:
    """Return the content of a crash file: command line, versions, traceback."""
    versions = {
        "perturbfm": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: _version(name) for name in _PACKAGES},
    }
    lines = [
        f"command: {['perturbfm', *arguments]!r}",
        f"folder: {_folder()!r}",
        *(f"{name}: {version}" for name, version in versions.items()),
        "",
        *traceback.format_exception(error),
    ]
    return "\n".join(line.rstrip("\n") for line in lines) + "\n"


def one_line(text: str, limit: int = 1000) -> str:
    """Return a message as one line of at most `limit` characters that moves no cursor of a terminal."""
    shown = "".join(c if c.isprintable() else _escaped(c) for c in " ".join(text.split()))
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "removed"


def printable_streams() -> None:
    """Let standard output and error write any text: what their encoding lacks is escaped, and a closed one drops it."""
    # Closed by whoever started the process (``>&-``); kept open to the end of it.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
