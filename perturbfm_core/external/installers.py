"""Commands that make an environment and fill it from a lock: those of uv, else those of venv and pip."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core.external.interpreters import clean_environment

_Command = list[str]


@dataclass(frozen=True)
class Installer:
    """What builds environments.

    Attributes
    ----------
    uv
        The program uv, "" where pip does it.
    """

    uv: str

    def __str__(self) -> str:
        return "uv" if self.uv else "pip"

    def make(self, folder: Path, python: Path) -> _Command:
        """Return the command that makes an empty environment of an interpreter."""
        if self.uv:
            return [self.uv, "venv", "--no-project", "--python", str(python), str(folder)]
        return [str(python), "-m", "venv", str(folder)]

    def fill(
        self, folder: Path, lock: Path, *, dependencies: bool, index: Sequence[str] = (), torch: str = ""
    ) -> _Command:
        """Return the command that installs a lock into an environment.

        Parameters
        ----------
        folder
            The environment.
        lock
            Its lock file.
        dependencies
            Whether what the packages ask for is installed as well.
        index
            Further package indexes: addresses, or folders of wheels.
        torch
            Backend of torch that uv is to look for with its makers, such as ``cpu``.
        """
        python = str(folder / "bin" / "python")
        if self.uv:
            command = [self.uv, "pip", "install", "--python", python, *uv_settings()]
        else:
            command = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        if not dependencies:
            command.append("--no-deps")
        for place in index:
            command += ["--find-links" if Path(place).is_dir() else "--extra-index-url", place]
        if torch and self.uv:
            command += ["--torch-backend", torch]
        return [*command, "-r", str(lock)]

    def variables(self) -> dict[str, str]:
        """Return the variables that its commands run with: no interpreter is downloaded."""
        variables = {**clean_environment(), "UV_PYTHON_DOWNLOADS": "never"}
        certificate = pip_settings().get("cert", []) if self.uv else []
        if certificate:
            variables.setdefault("SSL_CERT_FILE", certificate[0])
        return variables


def installer() -> Installer:
    """Return uv where it is installed beside this package or on PATH, else pip."""
    if importlib.util.find_spec("uv") is not None:
        with contextlib.suppress(ImportError, AttributeError, FileNotFoundError):
            import uv

            return Installer(str(uv.find_uv_bin()))
    return Installer(shutil.which("uv") or "")


def uv_settings() -> list[str]:
    """Return the options that make uv look where pip is set up to look; none where uv has settings of its own."""
    if any(k in os.environ for k in ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS")):
        return []
    settings = pip_settings()
    options = [o for place in settings.get("index-url", [])[:1] for o in ("--default-index", place)]
    for key in ("extra-index-url", "find-links"):
        options += [o for place in settings.get(key, []) for o in (f"--{key}", place)]
    if settings.get("no-index", ["0"])[0].lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    # As pip does: the version of the lock is taken from whichever index has it.
    return [*options, "--index-strategy", "unsafe-best-match"]


def pip_settings() -> dict[str, list[str]]:
    """Return {option: values} of pip's configuration files and variables; {} where there is no pip."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, tuple[int, list[str]]] = {}
    ranks = {"global": 0, "install": 1, ":env:": 2}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        rank = ranks.get(section, -1)
        if rank < found.get(option, (0, []))[0]:
            continue
        with contextlib.suppress(ValueError, SyntaxError):
            found[option] = (rank, str(ast.literal_eval(value)).split())
    return {option: values for option, (_, values) in found.items()}
