"""Settings of this machine for external models: their interpreters, and the longest time of a worker."""

from __future__ import annotations

import os
import platform
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from perturbfm_core.errors import ExternalError
from perturbfm_core.external.environments import env_of, environment_digest, own_environment
from perturbfm_core.external.known_environments import KNOWN, lock_hash
from perturbfm_core.store.artifacts import ArtifactStore

TIMEOUT = "PERTURBFM_EXTERNAL_TIMEOUT"


def variable_of(name: str) -> str:
    """Return the variable that names the user's own environment for a model, as ``--env`` does."""
    return f"PERTURBFM_ENV_{name.upper().replace('-', '_')}"


def interpreter_of(name: str, store: ArtifactStore) -> Path:
    """Return the interpreter that a model's worker runs in: the user's own, else the one built from the lock.

    A model without a lock runs in this program's own environment.

    Raises
    ------
    ExternalError
        If it is not there, or lacks the model.
    """
    if given := os.environ.get(variable_of(name)):
        return own_environment(name, Path(given))
    return env_of(name, store) if name in KNOWN else Path(sys.executable)


def environment_identity(name: str) -> str:
    """Return what distinguishes a model's environment from others, for the key of its output.

    Raises
    ------
    ExternalError
        If the user's own environment does not run.
    """
    if given := os.environ.get(variable_of(name)):
        return f"packages {_digest(os.path.abspath(given))}"
    if name in KNOWN:
        return f"lock {lock_hash(name)}"
    packages = " ".join(f"{package} {metadata.version(package)}" for package in ("numpy", "anndata"))
    return f"python {platform.python_version()} {packages}"


@lru_cache(maxsize=16)
def _digest(path: str) -> str:
    place = Path(path)
    return environment_digest(place / "bin" / "python" if place.is_dir() else place)


def timeout() -> float | None:
    """Return the seconds after which a worker is ended (``PERTURBFM_EXTERNAL_TIMEOUT``), None without a limit.

    Raises
    ------
    ExternalError
        If the variable is no positive number.
    """
    text = os.environ.get(TIMEOUT, "")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        msg = f"{TIMEOUT} must be a number of seconds above 0, found {text!r}"
        raise ExternalError(msg)
    return seconds
