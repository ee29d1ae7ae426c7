"""``perturbfm suite task`` and ``refresh``: what submitted jobs execute."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, NoReturn

import typer

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.output import JsonOption, emit, progress, store
from perturbfm_core.cli.suite_options import SuiteArgument
from perturbfm_core.cli.variables import variables
from perturbfm_core.errors import ConfigError

# As many fits of one host at once as its jobs want: Slurm has given each its share.
_SLOTS = "64"
_MAX_TRAIN = "PERTURBFM_MAX_TRAIN"
_POLL_S = 0.5


def task(
    name: SuiteArgument,
    submission: Annotated[str, typer.Argument(help="Which submission of the suite.")],
    first: Annotated[int, typer.Option("--first", min=0, help="First task of this job array.")] = 0,
    index: Annotated[
        int | None, typer.Option("--index", min=0, help="Task (default: SLURM_ARRAY_TASK_ID).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the cells of one submitted task that have no run yet; jobs call this."""
    from perturbfm_core.cli.suite_progress import suite_progress
    from perturbfm_core.pipeline.suite_jobs import read_submission
    from perturbfm_core.pipeline.suite_records import cells_of, keep_record
    from perturbfm_core.pipeline.suite_run import run_cells

    home = store()
    array = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if index is None and not array.isdecimal():
        msg = "SLURM_ARRAY_TASK_ID is not set; give --index N, or let `perturbfm suite submit` call this"
        raise ConfigError(msg)
    number = first + (int(array) if index is None else index)
    made = read_submission(home.jobs / name / submission)
    if number >= len(made.tasks):
        msg = f"submission {submission} has tasks 0 to {len(made.tasks) - 1}, not {number}"
        raise ConfigError(msg)
    job = None if index is not None else f"{os.environ.get('SLURM_ARRAY_JOB_ID', '?')}_{array}"
    free = job is not None and _MAX_TRAIN not in os.environ
    with _ends_in_order(), variables({_MAX_TRAIN: _SLOTS} if free else {}):
        keep_record(made, number, "running", job=job)
        try:
            cells = cells_of(home, made.tasks[number])
            with suite_progress(len(cells), 1, silent=as_json) as shown:
                outcomes = run_cells(home, cells, tell=shown.tell, each=shown.each)
        except KeyboardInterrupt:
            keep_record(made, number, "interrupted", job=job)
            raise
        counts = Counter(o.state for o in outcomes)
        result = {state: counts[state] for state in ("made", "found", "failed")}
        keep_record(made, number, "ended", job=job, **result)
    emit(dict(result), as_json)
    if counts["failed"]:
        raise typer.Exit(1)


@contextlib.contextmanager
def _ends_in_order() -> Iterator[None]:
    """Let a cancellation, and Slurm's warning before the time limit, end this process as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGUSR2)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def refresh(
    name: SuiteArgument,
    after: Annotated[
        str | None, typer.Option("--after", help="Wait until the local tasks of this submission have ended.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the scorecard of a suite and rank all runs, as `suite run` does in the end."""
    from perturbfm_core.cli.suite_running import refresh as write

    suite = load_catalog().suite(name)
    home = store()
    if after is not None:
        from perturbfm_core.pipeline.suite_tasks import tasks_of

        while any(t.submission.id == after and t.is_live for t in tasks_of(home, name)):
            time.sleep(_POLL_S)
    with progress(silent=as_json) as tell:
        files = write(home, suite, tell)
    emit(
        {"suite": name, "leaderboard": str(home.leaderboard), **{k: str(v) for k, v in files.items()}},
        as_json,
    )
