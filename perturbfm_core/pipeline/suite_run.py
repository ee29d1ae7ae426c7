"""Running a suite: every cell that is not done, one after the other or in several processes; a failing one stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from perturbfm_core.errors import DiskError
from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.pipeline.suite_cell import run_cell
from perturbfm_core.pipeline.suite_failures import Failure, failure_of, forget_failure, keep_failure
from perturbfm_core.pipeline.suite_status import suite_status
from perturbfm_core.pipeline.suite_workers import Lost, run_in_processes
from perturbfm_core.progress import FoundRuns, Progress, quiet
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.machine import max_train
from perturbfm_core.store.run_requests import note_request

OutcomeState = Literal["made", "found", "failed", "not applicable"]


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell.

    Attributes
    ----------
    cell, state
        The cell, and whether its run was made now, found, failed, or cannot be.
    run
        Its run, None where there is none.
    reason
        Why there is none, None otherwise.
    seconds
        How long it took.
    """

    cell: SuiteCell
    state: OutcomeState
    run: Path | None = None
    reason: str | None = None
    seconds: float = 0.0


def run_cells(
    store: ArtifactStore,
    cells: Sequence[SuiteCell],
    *,
    jobs: int = 1,
    again: bool = False,
    tell: Progress = quiet,
    each: Callable[[CellOutcome], None] = lambda _: None,
) -> list[CellOutcome]:
    """Run the cells of a suite that are not done, and return what became of each, in order.

    A cell that fails is kept with its reason, and the others go on. An interrupted call is repeated: what was
    finished is found.

    Parameters
    ----------
    store
        Where artifacts lie.
    cells
        The cells, from a plan that was made with `make`.
    jobs
        Number of processes.
    again
        Whether a new run is published where there is one.
    tell
        Called with a line of text about progress.
    each
        Called with the outcome of each cell as soon as it is known.

    Raises
    ------
    StoreError
        If the number of trainings at once (``PERTURBFM_MAX_TRAIN``) is none.
    DiskError
        If the disk takes nothing more, which every further cell would meet as well.
    """
    outcomes: dict[SuiteCell, CellOutcome] = {}
    todo = []
    for status in suite_status(store, cells):
        if status.state == "not applicable":
            outcomes[status.cell] = CellOutcome(status.cell, "not applicable", reason=status.reason)
        elif status.run is not None and not again:
            note_request(store, status.run)
            outcomes[status.cell] = CellOutcome(status.cell, "found", run=status.run)
        else:
            todo.append(status.cell)
            continue
        each(outcomes[status.cell])
    if todo:
        # Wrong for one it is wrong for all.
        max_train()
    finished = (
        _one_by_one(store, todo, again, tell)
        if min(jobs, len(todo)) <= 1
        else _side_by_side(store, todo, jobs, again, tell)
    )
    for outcome in finished:
        outcomes[outcome.cell] = outcome
        each(outcome)
    return [outcomes[cell] for cell in cells]


def _one_by_one(
    store: ArtifactStore, cells: Sequence[SuiteCell], again: bool, tell: Progress
) -> Iterator[CellOutcome]:
    for cell in cells:
        start, shown = time.perf_counter(), FoundRuns(tell)
        try:
            run = run_cell(store, cell, again, shown)
        except DiskError:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of one cell is kept, whatever it is, and the others go on
            yield _failed(store, cell, failure_of(error), start)
        else:
            yield _finished(store, cell, run, start, found=run.name in shown.ids)


def _side_by_side(
    store: ArtifactStore, cells: Sequence[SuiteCell], jobs: int, again: bool, tell: Progress
) -> Iterator[CellOutcome]:
    started: dict[SuiteCell, float] = {}
    for cell, said in run_in_processes(store, cells, jobs, again):
        start = started.setdefault(cell, time.perf_counter())
        if isinstance(said, str):
            tell(said)
        elif isinstance(said, Path):
            yield _finished(store, cell, said, start, found=False)
        elif isinstance(said, Lost):
            reason = (
                f"its process was ended from outside ({said.how}; out of memory?); run it with fewer --jobs"
            )
            yield _failed(store, cell, Failure(reason, ""), start)
        elif said is not None:
            yield _failed(store, cell, said, start)


def _finished(store: ArtifactStore, cell: SuiteCell, run: Path, start: float, *, found: bool) -> CellOutcome:
    forget_failure(store, cell)
    return CellOutcome(cell, "found" if found else "made", run=run, seconds=time.perf_counter() - start)


def _failed(store: ArtifactStore, cell: SuiteCell, failure: Failure, start: float) -> CellOutcome:
    keep_failure(store, cell, failure)
    return CellOutcome(cell, "failed", reason=failure.reason, seconds=time.perf_counter() - start)
