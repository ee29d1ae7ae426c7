"""State of a suite's submitted tasks: the store's records beside what Slurm, or this host, still runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perturbfm_core.errors import ClusterError
from perturbfm_core.pipeline import slurm_queue
from perturbfm_core.pipeline.suite_jobs import CellKey, Submission, submissions
from perturbfm_core.pipeline.suite_records import read_record
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.owner import process_has_ended

TaskState = Literal["queued", "running", "done", "failed", "cancelled", "lost", "unknown"]
# What may still run its cells. Of an unknown one nobody here can say.
LIVE: tuple[TaskState, ...] = ("queued", "running", "unknown")


@dataclass(frozen=True)
class Task:
    """A task with its state.

    Attributes
    ----------
    submission, index
        Which one it is.
    state
        ``failed`` if cells of it failed, ``lost`` if it ended without a word.
    reason
        Why, or why it waits; None where nobody says.
    record
        What it wrote of itself.
    """

    submission: Submission
    index: int
    state: TaskState
    reason: str | None
    record: dict[str, Any]

    @property
    def job(self) -> str | None:
        """Return the number of its job or process."""
        return self.submission.job_of(self.index)

    @property
    def log(self) -> Path | None:
        """Return where it prints to."""
        return self.submission.log(self.index)

    @property
    def cells(self) -> tuple[CellKey, ...]:
        """Return its cells."""
        return self.submission.tasks[self.index]

    @property
    def is_live(self) -> bool:
        """Return whether it may still run cells."""
        return self.state in LIVE

    def row(self) -> dict[str, Any]:
        """Return it as a line of a table."""
        known = {key: self.record.get(key) for key in ("made", "found", "failed")}
        where = {"job": self.job, "host": self.record.get("host")}
        about = {"submission": self.submission.id, "task": self.index, "state": self.state, **where}
        return {**about, "cells": len(self.cells), **known, "reason": self.reason}


def tasks_of(store: ArtifactStore, suite: str) -> list[Task]:
    """Return the tasks of the submissions of a suite, the oldest first."""
    found = submissions(store, suite)
    states: list[Task] = []
    on_slurm = [s for s in found if s.on == "slurm" and _open(s)]
    try:
        queued = slurm_queue.queue([s.job_name for s in on_slurm]) if on_slurm else []
    except ClusterError:
        queued = None
    by_job = None if queued is None else {(entry.name, entry.job): entry for entry in queued}
    gone = _endings(on_slurm, by_job)
    for made in found:
        for index in range(len(made.tasks)):
            record = read_record(made, index)
            if made.on == "slurm":
                state, reason = _slurm_state(made, index, record, by_job, gone)
            else:
                state, reason = _local_state(made, index, record)
            states.append(Task(made, index, state, record.get("damaged", reason), record))
    return states


def live_cells(tasks: Iterable[Task]) -> dict[CellKey, Task]:
    """Return the task of each cell that may still be run by one."""
    return {key: task for task in tasks if task.is_live for key in task.cells}


def current(tasks: list[Task]) -> list[Task]:
    """Return the tasks of the newest submission, and those of others that may still run."""
    newest = tasks[-1].submission.id if tasks else None
    return [task for task in tasks if task.submission.id == newest or task.is_live]


def _open(made: Submission) -> bool:
    """Return whether a task of a submission has not written its end."""
    return any(read_record(made, i).get("state") != "ended" for i in range(len(made.tasks)))


def _endings(
    found: list[Submission], by_job: dict[tuple[str, str], slurm_queue.QueueEntry] | None
) -> dict[str, str]:
    """Return what accounting says of jobs of which some task is neither in the queue nor has written its end."""
    if by_job is None:
        return {}
    jobs = []
    for made in found:
        for job, first, n in made.jobs:
            tasks = range(first, first + n)
            if any(
                (made.job_name, made.job_of(i)) not in by_job and read_record(made, i).get("state") != "ended"
                for i in tasks
            ):
                jobs.append(job)
    return slurm_queue.endings(jobs)


def _ended(record: dict[str, Any]) -> tuple[TaskState, str | None]:
    return ("failed", f"{record['failed']} cells failed") if record.get("failed") else ("done", None)


def _slurm_state(
    made: Submission,
    index: int,
    record: dict[str, Any],
    by_job: dict[tuple[str, str], slurm_queue.QueueEntry] | None,
    gone: dict[str, str],
) -> tuple[TaskState, str | None]:
    if record.get("state") == "ended":
        return _ended(record)
    if by_job is None:
        return "unknown", "squeue cannot be asked here"
    job = made.job_of(index) or record.get("job")
    if job is None:
        # Whoever submitted it was killed before the number was written; what is queued by its name may be it.
        known = {number for number, _, _ in made.jobs}
        if any(name == made.job_name and found.partition("_")[0] not in known for name, found in by_job):
            return "queued", "number not known"
    elif (entry := by_job.get((made.job_name, job))) is not None:
        return ("queued", entry.reason) if entry.is_pending else ("running", None)
    how = "it was never submitted" if job is None else gone.get(job)
    if record.get("state") == "interrupted" or (how or "").startswith("CANCELLED"):
        return "cancelled", None if job is None else how
    return "lost", how or "Slurm has no such job, and it wrote no end"


def _local_state(made: Submission, index: int, record: dict[str, Any]) -> tuple[TaskState, str | None]:
    state = record.get("state")
    if state == "ended":
        return _ended(record)
    if state == "interrupted":
        return "cancelled", None
    pid = made.job_of(index)
    if pid is None:
        return "lost", "it was never started"
    if made.elsewhere is not None:
        cure = f"if that host is gone, remove {made.folder}"
        return "unknown", f"it was started on host {made.elsewhere}; ask there, or {cure}"
    if process_has_ended(made.boot, int(pid), made.time):
        return "lost", f"process {pid} was ended from outside"
    return "running", None
