"""A refreshed store, and a count of the files that a refresh reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from perturbfm_core.leaderboard import collect, refresh
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.refreshed_store import add, renew


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Return a store with two runs and a leaderboard."""
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    add(store, "additive")
    add(store, "ridge")
    renew(store)
    settle(store)
    return store


def settle(store: ArtifactStore) -> None:
    """Let the files of all runs look as if they had not changed for a minute."""
    for path in store.runs.glob("*_*_*/*"):
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 60 * 10**9))
    renew(store)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the runs whose scores are read from here on."""
    seen: list[str] = []
    read = collect.read_run_scores

    def counted(path: Path, known: Any) -> Any:
        seen.append(path.name)
        return read(path, known)

    monkeypatch.setattr(refresh, "read_run_scores", counted)
    return seen
