"""Screens and frozen splits that tests of splits share."""

from __future__ import annotations

from pathlib import Path

import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline.split import split_stats
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import grid_rows, screen, split_one


@pytest.fixture(scope="session")
def ds() -> PerturbDataset:
    """Return a screen of three contexts with three singles and two combinations."""
    return screen(grid_rows(["A", "B", "C", "A+B", "B+C"], ["x", "y", "z"], reps=2))


@pytest.fixture(scope="session")
def by_condition(ds: PerturbDataset) -> FrozenSplit:
    """Return a split of context x."""
    return split_one(ds, "context_ood", {"holdout": ["x"]})


@pytest.fixture(scope="session")
def by_row(ds: PerturbDataset) -> FrozenSplit:
    """Return a split of random rows."""
    return split_one(ds, "iid", {"test_frac": 0.3})


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Return an empty store with a split folder of its own."""
    return ArtifactStore(tmp_path / "home", tmp_path / "splits")


@pytest.fixture
def folder(
    store: ArtifactStore, ds: PerturbDataset, by_condition: FrozenSplit, by_row: FrozenSplit
) -> SplitFolder:
    """Return a folder that holds both splits."""
    folder = SplitFolder(store.split_dir)
    for split in (by_condition, by_row):
        folder.save(split, split_stats(ds, split, bounds=False))
    return folder
