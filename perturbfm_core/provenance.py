"""What produced a result: code version, libraries, threads, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import threadpoolctl

from perturbfm_core import __version__

# Parts of the core whose code decides numbers; a change elsewhere keeps models and predictions valid.
_NUMERIC_PARTS = ("data", "splits", "graphs", "training", "models", "uncertainty", "schema.py")
_GRAPH_PARTS = ("data", "splits", "graphs", "models/train_graph.py", "schema.py")
_SCORING_PARTS = ("evaluation",)
_LIBRARIES = ("numpy", "scipy", "pandas", "scikit-learn", "anndata", "torch", "duckdb", "dagster", "pydantic")


@lru_cache(maxsize=4)
def _digest(parts: tuple[str, ...]) -> str:
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for part in parts:
        path = root / part
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        for file in files:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def numeric_code() -> str:
    """Return a digest of the source that decides fits and predictions (64 hex digits)."""
    return _digest(_NUMERIC_PARTS)


def graph_code() -> str:
    """Return a digest of the source that decides graphs built from train rows (64 hex digits)."""
    return _digest(_GRAPH_PARTS)


def scoring_code() -> str:
    """Return a digest of the source that decides scores (64 hex digits)."""
    return _digest(_NUMERIC_PARTS + _SCORING_PARTS)


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """Return the commit of the checkout this code runs from, with ``+dirty`` if changed; None outside one."""
    root = Path(__file__).resolve().parent.parent
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
        "code": numeric_code(),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": threads(),
        "libraries": library_versions(),
    }
