"""Submitting a suite's missing cells as tasks, to Slurm as job arrays or to this host as processes; and cancelling them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core.errors import ClusterError, ConfigError
from perturbfm_core.pipeline import slurm_queue
from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.pipeline.suite_jobs import (
    STARTED_FILE,
    Submission,
    cell_key,
    new_submission,
    read_submission,
)
from perturbfm_core.pipeline.suite_launch import Resources
from perturbfm_core.pipeline.suite_processes import end_processes, to_this_host
from perturbfm_core.pipeline.suite_records import keep_record, read_record
from perturbfm_core.pipeline.suite_slurm import to_slurm
from perturbfm_core.pipeline.suite_status import suite_status
from perturbfm_core.pipeline.suite_tasks import Task, live_cells, tasks_of
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.machine import cores

_CELLS_PER_TASK = 10
# Of this host: a process takes memory even while it waits for its turn.
_MOST_PROCESSES = 16


@dataclass(frozen=True)
class Missing:
    """The cells of a suite by what a submission does with them.

    Attributes
    ----------
    cells
        Those to be submitted.
    done
        The runs of those that have one.
    live, not_applicable
        Numbers of those that a task may still run, and that cannot run.
    """

    cells: tuple[SuiteCell, ...]
    done: tuple[Path, ...]
    live: int
    not_applicable: int


def missing_cells(store: ArtifactStore, suite: str, cells: Sequence[SuiteCell]) -> Missing:
    """Return the cells that have no run and that no task will run; failed ones are among them.

    Parameters
    ----------
    store, suite, cells
        Where runs are, the name of the suite, and its cells.
    """
    live = live_cells(tasks_of(store, suite))
    found = suite_status(store, cells)
    open_ = [s.cell for s in found if s.state in ("missing", "failed")]
    return Missing(
        tuple(cell for cell in open_ if cell_key(cell) not in live),
        done=tuple(s.run for s in found if s.run is not None),
        live=sum(cell_key(cell) in live for cell in open_),
        not_applicable=sum(s.state == "not applicable" for s in found),
    )


def chunks_of(cells: Sequence[SuiteCell], on: str, chunk: int | None) -> list[Sequence[SuiteCell]]:
    """Return the cells of each task: neighbours, which share data set and split.

    Parameters
    ----------
    cells, on
        What is to be run, and where.
    chunk
        Cells per task; by default 10, on this host as many as give each core one task.

    Raises
    ------
    ConfigError
        If this host would get more processes than it can have at once.
    """
    n = len(cells)
    per_core = -(-n // cores())
    size = chunk or (max(1, per_core) if on == "local" else _CELLS_PER_TASK)
    found = [cells[i : i + size] for i in range(0, n, size)]
    most = max(_MOST_PROCESSES, 4 * cores())
    if on == "local" and len(found) > most:
        msg = f"--chunk {size} makes {len(found)} processes at once on this host, at most {most} are started; give --chunk {-(-n // most)} or more"
        raise ConfigError(msg)
    return found


def submit_tasks(
    store: ArtifactStore, suite: str, on: str, chunks: Sequence[Sequence[SuiteCell]], resources: Resources
) -> Submission:
    """Submit tasks, and the refresh of leaderboard and scorecard after them, and return the submission.

    Parameters
    ----------
    store, suite, on
        Where it is kept, the suite, and ``slurm`` or ``local``.
    chunks
        The cells of each task.
    resources
        What each task asks for.
    """
    made = new_submission(store, suite, on, chunks)
    try:
        (to_slurm if on == "slurm" else to_this_host)(store, made, resources)
    except ClusterError:
        if not (made.folder / STARTED_FILE).is_file():
            shutil.rmtree(made.folder, ignore_errors=True)
        raise
    return read_submission(made.folder)


def cancel_tasks(store: ArtifactStore, suite: str) -> list[Task]:
    """Cancel what is queued or runs of a suite, the refresh included, and return its tasks that were.

    Raises
    ------
    ClusterError
        If Slurm's commands are needed and fail, or, when all else is cancelled, if a task runs on another host.
    """
    live = [task for task in tasks_of(store, suite) if task.is_live]
    away = {task.submission.id: task.submission for task in live if task.submission.elsewhere is not None}
    live = [task for task in live if task.submission.elsewhere is None]
    found = {task.submission.id: task.submission for task in live}
    names = [n for s in found.values() if s.on == "slurm" for n in (s.job_name, f"{s.job_name}-refresh")]
    if names:
        # By array, not by task: one request, and no task starts meanwhile.
        slurm_queue.cancel(sorted({entry.job.partition("_")[0] for entry in slurm_queue.queue(names)}))
    local = {t.job: t.submission for t in live if t.submission.on == "local" and t.job is not None}
    local |= {s.refresh: s for s in found.values() if s.on == "local" and s.refresh is not None}
    end_processes(local)
    for task in live:
        if read_record(task.submission, task.index).get("state") == "ended":
            continue
        if task.submission.on == "local":
            # What had no time to say so itself, and what never began.
            keep_record(task.submission, task.index, "interrupted")
        elif task.state == "queued":
            # It never began, and not every Slurm keeps accounts of what it cancelled.
            keep_record(task.submission, task.index, "interrupted", host=None, job=task.job)
    if away:
        raise ClusterError(_elsewhere(away.values(), len(live)))
    return live


def _elsewhere(away: Iterable[Submission], cancelled: int) -> str:
    """Return the message of submissions whose processes this host cannot end."""
    said = "; ".join(
        f"submission {s.id}: its task runs on host {s.elsewhere}; cancel it there (if that host is gone, remove {s.folder})"
        for s in away
    )
    return said + (f"; {cancelled} other tasks were cancelled" if cancelled else "")
