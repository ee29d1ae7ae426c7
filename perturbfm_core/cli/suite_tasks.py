"""``perturbfm suite cancel`` and ``logs``: what became of submitted tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.output import JsonOption, emit, emit_rows, store
from perturbfm_core.cli.suite_options import SuiteArgument
from perturbfm_core.errors import ConfigError


def cancel(name: SuiteArgument, as_json: JsonOption = False) -> None:
    """Cancel what is queued or running of a suite's tasks; what they have finished stays."""
    from perturbfm_core.pipeline.suite_submit import cancel_tasks

    load_catalog().suite(name)
    home = store()
    with home.lock(f"submit-{name}", what=f"cancellation of suite {name}"):
        ended = cancel_tasks(home, name)
    emit({"suite": name, "cancelled": len(ended), "cells": sum(len(t.cells) for t in ended)}, as_json)


def logs(
    name: SuiteArgument,
    cell: Annotated[
        list[str] | None,
        typer.Argument(help="Words of a cell: parts of its split, its entry, its seed. Left out: all tasks."),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", min=1, help="Last lines of each file.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Show what tasks printed: their files, or with a CELL the text of the task that had it last, and why it failed."""
    from perturbfm_core.pipeline.suite_failures import kept_failure
    from perturbfm_core.pipeline.suite_records import cells_of
    from perturbfm_core.pipeline.suite_tasks import tasks_of

    load_catalog().suite(name)
    home = store()
    tasks = tasks_of(home, name)
    if not tasks:
        msg = f"no task of suite {name!r} was ever submitted; run `perturbfm suite submit {name} --on slurm`"
        raise ConfigError(msg)
    if not cell:
        emit_rows([{**_where(t), "log": None if t.log is None else str(t.log)} for t in tasks], as_json)
        return
    last = {key: task for task in tasks for key in task.cells}
    known = {c.label: (c, key) for key in last for c in cells_of(home, [key])}
    chosen = {label: found for label, found in known.items() if all(w in label.split() for w in cell)}
    chosen = chosen or {label: found for label, found in known.items() if all(w in label for w in cell)}
    if not chosen:
        msg = f"no submitted cell of suite {name!r} has {' '.join(cell)!r}; `perturbfm suite status {name}` lists them"
        raise ConfigError(msg)
    rows = []
    for label, (found, key) in chosen.items():
        task = last[key]
        row = {
            "cell": label,
            **_where(task),
            "failure": kept_failure(home, found),
            "log": None if task.log is None else str(task.log),
        }
        rows.append(row)
    if as_json:
        texts = {r["log"]: _tail(r["log"], lines) for r in rows}
        emit({"cells": rows, "text": {k: v for k, v in texts.items() if k is not None}}, True)
        return
    emit_rows(rows, False)
    for path in dict.fromkeys(row["log"] for row in rows):
        print(f"==> {path} <==")
        print(_tail(path, lines))


def _where(task: Any) -> dict[str, Any]:
    return {
        "submission": task.submission.id,
        "task": task.index,
        "job": task.job,
        "state": task.state,
        "reason": task.reason,
    }


def _tail(path: str | None, lines: int) -> str:
    """Return the last lines of a file that another process may be writing, "" where there is none yet."""
    if path is None or not Path(path).is_file():
        return ""
    return "\n".join(Path(path).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
