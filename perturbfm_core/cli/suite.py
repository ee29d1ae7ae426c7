"""``perturbfm suite``: benchmark suites listed, run, resumed and summed up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.output import JsonOption, emit, emit_rows, progress, store
from perturbfm_core.cli.suite_options import DataDirOption, OnlyOption, SuiteArgument
from perturbfm_core.cli.suite_submit import submit
from perturbfm_core.cli.suite_task import refresh, task
from perturbfm_core.cli.suite_tasks import cancel, logs
from perturbfm_core.leaderboard.reasons import of_folds

if TYPE_CHECKING:
    from perturbfm_core.leaderboard.scorecard_tasks import Task
    from perturbfm_core.pipeline.suite import SuitePlan

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="List, run and sum up benchmark suites.",
)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the suites of the catalog."""
    emit_rows(
        [_summary(suite) for suite in load_catalog().suites.values()],
        as_json,
        empty="the catalog has no suite; docs/suites.md says how to declare one",
    )


@app.command("show")
def show(name: SuiteArgument, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Show a suite: entries with their seeds, splits, panels, files it expects, and how many cells it has."""
    from perturbfm_core.evaluation.panel import PANELS
    from perturbfm_core.pipeline.suite import plan_suite

    catalog = load_catalog()
    suite = catalog.suite(name)
    plan = plan_suite(store(), suite, data_dir=data_dir)
    applicable = sum(cell.reason is None for cell in plan.cells)
    about: dict[str, Any] = {
        **_summary(suite),
        "panels": list(suite.panels) or list(PANELS),
        "seeds": {entry: list(catalog.model(entry).seeds) for entry in suite.models},
        "files": {g.file.name: g.file.about for g in suite.grid if g.file is not None},
        "splits": len(plan.splits),
        "cells": len(plan.cells),
        "not_applicable": len(plan.cells) - applicable,
        "data_not_made": list(plan.unmade),
    }
    rows = [
        {"dataset": s.dataset, "kind": s.kind, "split": s.key, "board": s.board, "frozen": s.is_frozen}
        for s in plan.splits
    ]
    if as_json:
        emit({**about, "splits": rows, "entries": list(suite.models)}, True)
        return
    emit(about, False)
    waits = (
        f"the data are not made yet: {', '.join(plan.unmade)}" if plan.unmade else "its grid names no split"
    )
    emit_rows(rows, False, empty=waits)


def _summary(suite: SuiteEntry) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "datasets": ", ".join(dict.fromkeys(group.dataset for group in suite.grid)),
        "entries": len(suite.models),
        "description": suite.description,
    }


@app.command("status")
def status(
    name: SuiteArgument,
    only: OnlyOption = None,
    state: Annotated[
        str | None,
        typer.Option("--state", help="Only cells that are done, missing, queued, running, failed or n/a."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which cells of a suite are done, missing, failed or not applicable, and its submitted tasks; nothing is fitted."""
    _status(name, only, None, as_json, state)


def _status(
    name: str, only: list[str] | None, data_dir: Path | None, as_json: bool, state: str | None = None
) -> None:
    from perturbfm_core.errors import ConfigError
    from perturbfm_core.pipeline.suite import plan_suite
    from perturbfm_core.pipeline.suite_filter import parse_only
    from perturbfm_core.pipeline.suite_jobs import cell_key
    from perturbfm_core.pipeline.suite_status import STATES, count_states, suite_status
    from perturbfm_core.pipeline.suite_tasks import LIVE, current, live_cells, tasks_of

    wanted = "not applicable" if state == "n/a" else state
    if wanted is not None and wanted not in (*STATES, *LIVE):
        msg = f"--state {state!r} is none of: done, missing, queued, running, failed, n/a"
        raise ConfigError(msg)
    suite = load_catalog().suite(name)
    plan = plan_suite(store(), suite, only=parse_only(only or [], suite), data_dir=data_dir)
    found = suite_status(store(), plan.cells)
    tasks = tasks_of(store(), suite.name)
    live = live_cells(tasks)
    states = [
        live[cell_key(s.cell)].state
        if s.state in ("missing", "failed") and cell_key(s.cell) in live
        else s.state
        for s in found
    ]
    rows = [
        {
            "split": s.cell.split.key,
            "entry": s.cell.entry,
            "seed": s.cell.seed,
            "state": now,
            "run": None if s.run is None else s.run.name,
            "reason": s.reason,
        }
        for s, now in zip(found, states, strict=True)
        if wanted in (None, now)
    ]
    counts = {"cells": len(found), **{k.replace(" ", "_"): n for k, n in count_states(states).items()}}
    extra: dict[str, Any] = {"data_not_made": list(plan.unmade)} if plan.unmade else {}
    shown = [task.row() for task in current(tasks)]
    if as_json:
        extra |= {"tasks": shown} if shown else {}
        emit({"suite": suite.name, **counts, **extra, "rows": rows}, True)
        return
    emit_rows(rows, False, empty=_no_cell(plan, state, only))
    if shown:
        emit_rows(shown, False, empty="no task was submitted")
    emit({**counts, **extra}, False)


def _no_cell(plan: SuitePlan, state: str | None, only: list[str] | None) -> str:
    """Return why no cell is shown."""
    if plan.cells:
        return f"no cell is {state}; without --state all {len(plan.cells)} are shown"
    if plan.unmade:
        return f"the data are not made yet: {', '.join(plan.unmade)}"
    return f"no cell passes --only {' '.join(only)}" if only else "the suite has no cell"


@app.command("run")
def run(
    name: SuiteArgument,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Cells at once, each in a process.")] = 1,
    only: OnlyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be run, and make nothing.")
    ] = False,
    data_dir: DataDirOption = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Publish new runs though there are some of the same inputs and code."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run every cell (entry x split x seed) of a suite that is not done, then rank, and write its scorecard.

    What was interrupted or failed is run by the same command; what is done is found.
    """
    from perturbfm_core.cli.suite_running import carry_out

    if dry_run:
        _status(name, only, data_dir, as_json)
        return
    done = carry_out(
        name, jobs=jobs, only=only or [], data_dir=data_dir, again=again, silent=as_json, lines=True
    )
    result = done.result()
    if as_json:
        emit({**result, "cells": done.rows()}, True)
    else:
        emit(result, False)
    if done.failed:
        raise typer.Exit(1)


@app.command("scorecard")
def scorecard(
    name: SuiteArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write to (default: runs/scorecards/NAME).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the scorecard of a suite's runs: ranks by task, score between floor and ceiling, coverage, cost."""
    from perturbfm_core.pipeline.suite_scorecard import suite_scorecard, write_scorecard

    suite = load_catalog().suite(name)
    with progress(silent=as_json) as tell:
        card = suite_scorecard(store(), suite, tell=tell)
        files = write_scorecard(store(), card, out)
    if as_json:
        emit({**card.to_json(), **{k: str(v) for k, v in files.items()}}, True)
        return
    emit_rows(card.rows(), False, empty="the suite names no entry")
    notes = {task.board: note for task in card.tasks if (note := _task_note(task)) is not None}
    emit({"metric": card.metric, "notes": notes, **{k: str(v) for k, v in files.items()}}, False)


def _task_note(task: Task) -> str | None:
    """Return what must be said of a task: why it does not count, and which folds the suite has."""
    folds = of_folds(task.n_splits, task.n_splits_expected)
    said = [*([folds] if task.n_splits < task.n_splits_expected else []), *([task.note] if task.note else [])]
    return "; ".join(said) or None


app.command("submit")(submit)
app.command("cancel")(cancel)
app.command("logs")(logs)
app.command("refresh")(refresh)
app.command("task", hidden=True)(task)
