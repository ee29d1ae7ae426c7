"""Suites: which cells a benchmark has, and making its data sets and splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from perturbfm_core import pipeline
from perturbfm_core.catalog import load_catalog
from perturbfm_core.config import SuiteEntry
from perturbfm_core.library import Progress, ensure_dataset, open_dataset, quiet
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.store import ArtifactStore


@dataclass(frozen=True)
class Cell:
    """One (split, entry) of a suite, with the reason if it cannot exist."""

    split: str
    entry: str
    reason: str | None


def suite_splits(store: ArtifactStore, suite: SuiteEntry, progress: Progress = quiet) -> list[str]:
    """Return the hashes of a suite's splits, making data sets and freezing splits that are missing."""
    catalog = load_catalog()
    folder = SplitFolder(store.split_dir)
    hashes = []
    for group in suite.grid:
        ds = open_dataset(ensure_dataset(store, catalog.dataset(group.dataset), progress))
        for spec in group.splits:
            for frozen in freeze(ds, spec):
                if frozen.hash not in folder.hashes():
                    pipeline.freeze_split(store, ds, spec, progress=progress)
                hashes.append(frozen.hash)
    return hashes


def suite_cells(store: ArtifactStore, suite: SuiteEntry, hashes: Iterable[str]) -> list[Cell]:
    """Return the cells of a suite: its splits times its entries."""
    catalog = load_catalog()
    index = {e.hash: e for e in SplitFolder(store.split_dir).index().splits}
    return [
        Cell(h, name, pipeline.why_not(index[h].traits, catalog.model(name)))
        for h in hashes
        for name in suite.models
    ]
