"""The machine and software that produce a result: libraries, commit, cores, threads."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import threadpoolctl

from perturbfm_core import __version__
from perturbfm_core.errors import StoreError

_LIBRARIES = ("numpy", "scipy", "pandas", "scikit-learn", "anndata", "torch", "duckdb", "dagster", "pydantic")


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, with ``+dirty`` if changed; None outside one."""
    root = Path(__file__).resolve().parents[2]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--", "perturbfm_core", "perturbfm_assets")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+dirty" if dirty else "")


def _git(root: Path, *args: str) -> str:
    out = subprocess.run(  # noqa: S603 - fixed program and arguments
        ["git", *args],  # noqa: S607 - found on PATH as every developer's git is
        cwd=root,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return out.stdout.strip()


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that can change a number."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def threads() -> int:
    """Return the largest number of threads that a loaded BLAS or OpenMP pool may use."""
    return max((int(pool["num_threads"]) for pool in threadpoolctl.threadpool_info()), default=1)


def environment() -> dict[str, Any]:
    """Return what is recorded in every run's ``config.json``."""
    return {
        "perturbfm": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": threads(),
        "libraries": library_versions(),
    }


def max_train() -> int:
    """Return how many trainings may run at once on this machine (``PERTURBFM_MAX_TRAIN``, default 1).

    Raises
    ------
    StoreError
        If the variable is not a whole number of at least 1.
    """
    text = os.environ.get("PERTURBFM_MAX_TRAIN") or "1"
    if not text.isdecimal() or int(text) < 1:
        msg = f"PERTURBFM_MAX_TRAIN is {text!r}; set it to a whole number of at least 1"
        raise StoreError(msg)
    return int(text)


def cores() -> int:
    """Return how many cores this process may use; `OMP_NUM_THREADS` asks for fewer."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(own, int(asked)) if asked.isdigit() and int(asked) > 0 else own
