"""Submissions of a suite as the store keeps them: which task has which cells, and the numbers of their jobs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.pipeline.suite_fields import (
    WHERE,
    cells_field,
    damaged,
    jobs_field,
    number_field,
    read_fields,
    text_field,
    time_field,
)
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_json
from perturbfm_core.store.owner import this_boot

PLAN_FILE = "submission.json"
STARTED_FILE = "started.json"

# (hash of the split, entry, seed): what tells the cells of a suite apart.
CellKey = tuple[str, str, int]


@dataclass(frozen=True)
class Submission:
    """A submission of a suite.

    Attributes
    ----------
    suite, id, folder
        Its suite, its name, and its directory.
    on
        ``slurm`` or ``local``.
    tasks
        The cells of each task.
    jobs
        (number of a Slurm job or a process, its first task, its number of tasks), empty until they are known.
    refresh
        Number of the job or process that ranks in the end, None until it is known.
    boot, time
        Which host it was submitted on, since its start, and when, in seconds since 1970.
    """

    suite: str
    id: str
    folder: Path
    on: str
    tasks: tuple[tuple[CellKey, ...], ...]
    jobs: tuple[tuple[str, int, int], ...] = ()
    refresh: str | None = None
    boot: str = ""
    time: float = 0.0

    @property
    def job_name(self) -> str:
        """Return what its jobs are called in Slurm; no other submission's are called so."""
        return f"perturbfm-{self.suite}-{self.id}"

    @property
    def elsewhere(self) -> str | None:
        """Return the host that has its processes, None if that is this one, or Slurm has them.

        A process number says nothing on another host, nor in another container.
        """
        host = self.boot.partition("@")[0]
        here = self.on != "local" or host == this_boot().partition("@")[0]
        return None if here else host or "of unknown name"

    def job_of(self, index: int) -> str | None:
        """Return the number of the job or process of a task as Slurm writes it, None if it is not known."""
        for job, first, n in self.jobs:
            if first <= index < first + n:
                return f"{job}_{index - first}" if self.on == "slurm" else job
        return None

    def log(self, index: int) -> Path | None:
        """Return where a task prints to, None if that is not known."""
        if self.on == "local":
            return self.folder / f"task-{index:04d}.log"
        job = self.job_of(index)
        # Slurm's own pattern of the file is %A_%a_0_log.out.
        return None if job is None else self.folder / f"{job}_0_log.out"

    def record_file(self, index: int) -> Path:
        """Return the file in which a task keeps what becomes of it."""
        return self.folder / f"task-{index:04d}.json"


def cell_key(cell: SuiteCell) -> CellKey:
    """Return what tells a cell of a frozen split apart."""
    return (cell.split.hash or "", cell.entry, cell.seed)


def new_submission(
    store: ArtifactStore, suite: str, on: str, chunks: Sequence[Sequence[SuiteCell]], *, write: bool = True
) -> Submission:
    """Return a submission, written before anything is started.

    Parameters
    ----------
    store, suite, on
        Where it is kept, the suite, and ``slurm`` or ``local``.
    chunks
        The cells of each task.
    write
        Whether it is written.
    """
    now = time.time()
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{uuid.uuid4().hex[:4]}"
    tasks = tuple(tuple(cell_key(cell) for cell in chunk) for chunk in chunks)
    made = Submission(
        suite, name, (store.jobs / suite / name).absolute(), on, tasks, boot=this_boot(), time=now
    )
    if write:
        made.folder.mkdir(parents=True)
        fields = {"suite": suite, "on": on, "tasks": tasks, "boot": made.boot, "time": now}
        write_json(made.folder / PLAN_FILE, fields)
    return made


def keep_started(made: Submission, jobs: Sequence[tuple[str, int, int]], refresh: str | None) -> None:
    """Write the numbers of the jobs or processes of a submission.

    Parameters
    ----------
    made
        The submission.
    jobs
        (number, first task, number of tasks) each.
    refresh
        That of the job which ranks in the end.
    """
    write_json(made.folder / STARTED_FILE, {"jobs": [list(job) for job in jobs], "refresh": refresh})


def read_submission(folder: Path) -> Submission:
    """Return the submission of a directory.

    Raises
    ------
    StoreError
        If it is none, or cannot be read.
    """
    plan, started = folder / PLAN_FILE, folder / STARTED_FILE
    name = f"perturbfm-{folder.parent.name}-{folder.name}"
    cure = f"remove the folder {folder} (jobs that Slurm still has of it: scancel --name={name})"
    fields = read_fields(plan, cure)
    try:
        made = Submission(
            suite=text_field(fields, "suite"),
            id=folder.name,
            folder=folder.absolute(),
            on=text_field(fields, "on", WHERE),
            tasks=cells_field(fields, "tasks"),
            boot=text_field(fields, "boot"),
            time=time_field(fields, "time"),
        )
    except (TypeError, ValueError) as error:
        raise damaged(plan, error, cure) from error
    if not started.is_file():
        return made
    if made.on == "slurm":
        cure = "remove this file; its jobs are then looked up by their name"
    else:
        cure = f"remove the folder {folder} when its processes have ended"
    fields = read_fields(started, cure)
    try:
        return replace(
            made,
            jobs=jobs_field(fields, "jobs", made.on, len(made.tasks)),
            refresh=number_field(fields, "refresh", made.on),
        )
    except (TypeError, ValueError) as error:
        raise damaged(started, error, cure) from error


def submissions(store: ArtifactStore, suite: str) -> list[Submission]:
    """Return the submissions of a suite, the oldest first."""
    found = [read_submission(p.parent) for p in (store.jobs / suite).glob(f"*/{PLAN_FILE}")]
    # Not by name: that of two submissions of one second differs by a random end.
    return sorted(found, key=lambda made: (made.time, made.id))
