"""Suites: the list of cells (entry x split x seed) that the command line and the Dagster job run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perturbfm_core.catalog.entries import SplitSpec, SuiteEntry, SuiteSplits
from perturbfm_core.catalog.loading import Catalog, load_catalog
from perturbfm_core.errors import ConfigError
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.suite_data import is_at_hand, require_files, suite_dataset
from perturbfm_core.pipeline.suite_filter import CellFilter, selects_dataset
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.splits.conditions import SplitConditions
from perturbfm_core.splits.earlier import freeze_beside
from perturbfm_core.splits.folder import SplitFolder, traits_of
from perturbfm_core.splits.index import IndexEntry
from perturbfm_core.store.artifacts import ArtifactStore


@dataclass(frozen=True)
class SuiteSplit:
    """A split of a suite.

    Attributes
    ----------
    dataset, kind, key, board
        Its data set and kind; its key and board, made of the two where the data are not there yet.
    hash
        Its hash, None where the data are not there yet.
    entry
        Its line in the index, None as `hash`.
    is_frozen
        Whether its file is written.
    conditions
        Its conditions, None as `hash`.
    """

    dataset: str
    kind: str
    key: str
    board: str
    hash: str | None = None
    entry: IndexEntry | None = field(default=None, repr=False)
    is_frozen: bool = False
    conditions: SplitConditions | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class SuiteCell:
    """One entry with one seed on one split of a suite.

    Attributes
    ----------
    split, entry, seed
        Where and what.
    reason
        Why the entry cannot run on the split; None if it can, or if that is not known before the data are there.
    """

    split: SuiteSplit
    entry: str
    seed: int
    reason: str | None

    @property
    def label(self) -> str:
        """Return the cell as it is shown in a line."""
        return f"{self.split.key} {self.entry} seed {self.seed}"


@dataclass(frozen=True)
class SuitePlan:
    """What a suite consists of.

    Attributes
    ----------
    suite
        Its entry in the catalog.
    splits, cells
        In the order of the suite: data set, split, entry, seed.
    unmade
        Data sets that are not there yet; the number of their splits is what the suite asks for.
    """

    suite: SuiteEntry
    splits: tuple[SuiteSplit, ...]
    cells: tuple[SuiteCell, ...]
    unmade: tuple[str, ...] = ()


def plan_suite(
    store: ArtifactStore,
    suite: SuiteEntry,
    *,
    make: bool = False,
    only: Sequence[CellFilter] = (),
    data_dir: Path | None = None,
    tell: Progress = quiet,
) -> SuitePlan:
    """Return the cells of a suite.

    Parameters
    ----------
    store
        Where artifacts lie.
    suite
        The suite.
    make
        Whether data sets are made and splits frozen that are missing; without it nothing is written.
    only
        Selections of cells, of which each cell must be in one; all by default.
    data_dir
        Folder of the user's own files, for suites that read some.
    tell
        Called with a line of text about progress.

    Raises
    ------
    ConfigError
        If the suite names an unknown entry, data set or panel, a selection is of nothing, or files are missing.
    """
    catalog = load_catalog()
    check_suite(suite, catalog)
    groups = [group for group in suite.grid if selects_dataset(only, group.dataset)]
    if make:
        require_files(store, suite, [group.dataset for group in groups], data_dir)
    splits: dict[str, SuiteSplit] = {}
    unmade: list[str] = []
    for group in groups:
        if make or is_at_hand(store, group):
            found = _splits(store, group, data_dir, make=make, tell=tell)
        else:
            found = [split for spec in group.splits for split in _expected(group.dataset, spec)]
            unmade.append(group.dataset)
        # The same split asked for twice is one.
        splits |= {split.hash or split.key: split for split in found}
    cells = [
        SuiteCell(split, name, seed, _reason(split, name, catalog))
        for split in splits.values()
        for name in suite.models
        for seed in catalog.model(name).seeds
    ]
    chosen = [cell for cell in cells if not only or any(_passes(cell, f) for f in only)]
    if only and not chosen:
        keys = ", ".join(sorted({cell.split.key for cell in cells})) or "none"
        msg = f"--only selects no cell of suite {suite.name!r}; its splits: {keys}; its entries: {', '.join(suite.models)}"
        raise ConfigError(msg)
    kept = {cell.split for cell in chosen}
    return SuitePlan(suite, tuple(s for s in splits.values() if s in kept), tuple(chosen), tuple(unmade))


def check_suite(suite: SuiteEntry, catalog: Catalog) -> None:
    """Look up every name of a suite, so that an unknown one is reported before anything is made.

    Raises
    ------
    ConfigError, MetricError
        If one is unknown.
    """
    for name in suite.models:
        catalog.model(name)
    for panel in suite.panels:
        PANELS.get(panel)
    for group in suite.grid:
        if group.file is None:
            catalog.dataset(group.dataset)


def _splits(
    store: ArtifactStore, group: SuiteSplits, data_dir: Path | None, *, make: bool, tell: Progress
) -> list[SuiteSplit]:
    """Return the splits of a group, frozen if `make` is set."""
    ds = suite_dataset(store, group, data_dir, tell)
    folder = SplitFolder(store.split_dir)
    known = set(folder.hashes())
    out = []
    for spec in group.splits:
        found = freeze_beside(folder, ds, spec)
        if make and any(split.hash not in known for split in found):
            known |= {split.hash for split, _, _ in freeze_split(store, ds, spec, tell=tell)}
        index = {e.hash: e for e in folder.index().splits}
        for split in found:
            # A split that is not frozen yet has no line; what decides about models is read from the data.
            entry = index.get(split.hash) or folder.entry(split.definition, None).model_copy(
                update={"traits": traits_of(split, ds)}
            )
            out.append(
                SuiteSplit(
                    dataset=entry.dataset,
                    kind=entry.kind,
                    key=entry.key,
                    board=entry.board,
                    hash=split.hash,
                    entry=entry,
                    is_frozen=split.hash in known,
                    conditions=SplitConditions.of(split, ds),
                )
            )
    return out


def _expected(dataset: str, spec: SplitSpec) -> list[SuiteSplit]:
    """Return the splits that a request will give, as far as that is known without the data."""
    board = f"{dataset}.{spec.kind}"
    folds = [spec.fold] if spec.folds is None or spec.fold is not None else range(spec.folds)
    text = ",".join(f"{k}={v}" for k, v in sorted(spec.params.items()))
    name = board + (f"({text})" if text else "")
    return [SuiteSplit(dataset, spec.kind, name if f is None else f"{name}.fold{f}", name) for f in folds]


def _reason(split: SuiteSplit, entry: str, catalog: Catalog) -> str | None:
    return (
        None if split.entry is None else why_not(split.entry.traits, catalog.model(entry), split.conditions)
    )


def _passes(cell: SuiteCell, only: CellFilter) -> bool:
    split = cell.split
    return (
        (not only.entry or cell.entry in only.entry)
        and (not only.dataset or split.dataset in only.dataset)
        and (not only.seed or str(cell.seed) in only.seed)
        and (
            not only.split
            or any((split.hash or "").startswith(s) or s in split.key or s in split.board for s in only.split)
        )
    )
