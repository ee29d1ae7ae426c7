"""A store of two runs to publish."""

from __future__ import annotations

from pathlib import Path

import pytest

from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.small_leaderboard import add_run


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Return a store with one run."""
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    add_run(store, "additive", [0.5] * 5)
    return store
