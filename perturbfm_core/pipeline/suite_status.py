"""State of a suite's cells: done, missing, failed or not applicable, found out without fitting anything."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import PerturbFMError, StoreError
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.gene_graph import gather
from perturbfm_core.pipeline.opening import with_registered
from perturbfm_core.pipeline.report import existing_run
from perturbfm_core.pipeline.split import stored_stats
from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.pipeline.suite_cell import config_of, run_name
from perturbfm_core.pipeline.suite_failures import kept_failure
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_index import add_missing

CellState = Literal["done", "missing", "failed", "not applicable"]
STATES: tuple[CellState, ...] = ("done", "missing", "failed", "not applicable")


@dataclass(frozen=True)
class CellStatus:
    """A cell with its state.

    Attributes
    ----------
    cell, state
        The cell, and whether its run is there.
    run
        The run of the same inputs, configuration and code, None unless the cell is done.
    reason
        Why it failed or is not applicable; None otherwise.
    """

    cell: SuiteCell
    state: CellState
    run: Path | None = None
    reason: str | None = None


def suite_status(store: ArtifactStore, cells: Iterable[SuiteCell]) -> list[CellStatus]:
    """Return the state of every cell: done is one whose run would be found, by the rule of `existing_run`.

    Nothing is fitted, built or written. A cell whose code has changed since it ran is missing.
    """
    by_name: dict[str, list[Path]] = {}
    runs = store.run_dirs()
    add_missing(store, runs)
    for path in runs:
        # Of `<time>_<split>_<entry>_<configuration>`, with four more digits where two runs began in one second.
        name, _, last = path.name.partition("_")[2].rpartition("_")
        by_name.setdefault(f"{name}_{last[:8]}", []).append(path)
    opened: dict[str, tuple[PerturbDataset, FrozenSplit]] = {}
    return [_status(store, cell, by_name, opened) for cell in cells]


def count_states(states: Iterable[str]) -> dict[str, int]:
    """Return the number of cells in each of `STATES`, and in each further state that occurs."""
    counts = Counter(states)
    return {
        **{state: counts[state] for state in STATES},
        **{s: n for s, n in counts.items() if s not in STATES},
    }


def _status(
    store: ArtifactStore,
    cell: SuiteCell,
    by_name: dict[str, list[Path]],
    opened: dict[str, tuple[PerturbDataset, FrozenSplit]],
) -> CellStatus:
    if cell.reason is not None:
        return CellStatus(cell, "not applicable", reason=cell.reason)
    split = cell.split.hash
    if split is None or not cell.split.is_frozen:
        return CellStatus(cell, "missing")
    runs = by_name.get(run_name(cell), [])
    if runs:
        # What cannot be opened here without making something is none that a run was made of.
        with contextlib.suppress(PerturbFMError):
            if split not in opened:
                frozen = SplitFolder(store.split_dir).load(split)
                opened[split] = (dataset_of(store, frozen), frozen)
            if (run := _existing(store, cell, *opened[split], runs)) is not None:
                return CellStatus(cell, "done", run=run)
    if (reason := kept_failure(store, cell)) is not None:
        return CellStatus(cell, "failed", reason=reason)
    return CellStatus(cell, "missing")


def _existing(
    store: ArtifactStore, cell: SuiteCell, ds: PerturbDataset, split: FrozenSplit, runs: list[Path]
) -> Path | None:
    stats = stored_stats(store, split)
    if stats is None:
        return None
    config = with_registered(store, ds, config_of(cell))
    needs = config.new_model().needs()
    side_info = gather(_MakesNothing(store.home, store.split_dir), ds, split, needs)
    e = Experiment(store, ds, split, config, side_info, lambda: stats)
    return existing_run(e, runs)


class _MakesNothing(ArtifactStore):
    """A store whose objects are found or refused: nothing is built for a look at the state."""

    def put_object(self, key: str, fill: Any) -> Path:
        """Return the object `key`; one that is not there yet raises `StoreError`."""
        if (found := self.find(key)) is not None:
            return found.path
        msg = f"object {key[:12]} is not made yet"
        raise StoreError(msg)

    @contextlib.contextmanager
    def training_slot(self, what: str = "", tell: Any = None) -> Iterator[int]:
        """Hold no slot: what is made under one is refused by `put_object`."""
        yield 1
