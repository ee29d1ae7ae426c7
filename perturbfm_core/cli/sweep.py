"""``perturbfm sweep``: a declared grid of parameters, selected on validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturbfm_core.cli.output import (
    JsonOption,
    SplitDataOption,
    SplitOption,
    emit,
    emit_rows,
    progress,
    store,
)

if TYPE_CHECKING:
    from perturbfm_core.tuning.sweep_folder import SweepFolder

# Columns of the table, which a parameter of the same name does not take.
_OWN = ("rank", "config", "entry", "validation", "state", "reason")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Run and show sweeps: a grid of an entry's parameters, selected on validation.",
)


@app.command("run")
def run(
    base: Annotated[
        str, typer.Option("--base", help="YAML file of a model entry, or the name of one of the catalog.")
    ],
    grid: Annotated[Path, typer.Option("--grid", help="YAML file: `parameter: [value, value]`, one a line.")],
    split: SplitOption,
    data: SplitDataOption = None,
    finalists: Annotated[
        int, typer.Option(min=0, help="How many of the best on validation get test scores, which is logged.")
    ] = 1,
    name: Annotated[
        str | None, typer.Option(help="Name of the sweep (default: one for these inputs).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every fit on validation.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Configurations at once, each in a process.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Score every configuration of a grid on a split's validation; test scores are revealed for finalists only."""
    from perturbfm_core.tuning.sweep import run_sweep
    from perturbfm_core.tuning.sweep_grid import load_base, load_grid, sweep_cells

    entry = load_base(base)
    cells = sweep_cells(entry, load_grid(grid))
    with progress(len(cells), silent=as_json) as tell:
        made = run_sweep(
            store(),
            split,
            entry,
            cells,
            data=data,
            finalists=finalists,
            name=name,
            seed=seed,
            jobs=jobs,
            tell=tell,
        )
    _show(made.folder, as_json)


@app.command("show")
def show(
    name: Annotated[str | None, typer.Argument(help="Name of a sweep (default: list them).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a sweep: its configurations by validation, test scores of those revealed, and the log of that."""
    from perturbfm_core.tuning.sweep_folder import SweepFolder, sweep_names

    if name is None:
        rows = []
        for known in sweep_names(store()):
            folder = SweepFolder(store(), known)
            cells, identity = folder.cells(), folder.identity()
            rows.append(
                {
                    "sweep": known,
                    "entry": identity["entry"],
                    "split": identity["split"][:12],
                    "cells": len(cells),
                    "complete": sum(c.value is not None for c in cells),
                    "revealed": len(folder.reveals()),
                }
            )
        emit_rows(rows, as_json, empty="no sweep was run yet; see `perturbfm sweep run`")
        return
    _show(SweepFolder(store(), name), as_json)


def _show(folder: SweepFolder, as_json: bool) -> None:
    from perturbfm_core.leaderboard.headline import HEADLINE
    from perturbfm_core.tuning.sweep import ranking

    identity, cells, reveals = folder.identity(), folder.cells(), folder.reveals()
    ranked = ranking(folder)
    runs = {r.config_hash: r.runs for r in reveals}
    rows: list[dict[str, Any]] = [
        {
            "rank": ranked.index(score) + 1 if score.value is not None else None,
            "config": score.config_hash[:8],
            "entry": score.entry,
            **{name if name not in _OWN else f"--{name}": value for name, value in score.values.items()},
            "validation": score.value,
            f"test {HEADLINE}": _test_value(runs.get(score.config_hash, [])),
            "state": score.state,
            "reason": score.reason,
        }
        for score in [*ranked, *(c for c in cells if c.value is None)]
    ]
    names = list(dict.fromkeys(key for row in rows for key in row))
    log = [
        {
            "time": r.time,
            "config": r.config_hash[:8],
            "entry": r.entry,
            "validation": r.value,
            "rank": f"{r.rank} of {r.complete}",
            "runs": ", ".join(r.runs) or None,
        }
        for r in reveals
    ]
    about = {
        "sweep": folder.name,
        "split_hash": identity["split"],
        "base": identity["entry"],
        "cells": len(cells),
        "complete": len(ranked),
        "selected": ranked[0].entry if ranked else None,
        "revealed": len(reveals),
        "log": str(folder.log_file),
    }
    if as_json:
        emit({**about, "rows": rows, "reveals": log}, True)
        return
    emit_rows(
        [{name: row.get(name) for name in names} for row in rows],
        False,
        empty="no configuration has been fitted yet; the same `sweep run` goes on",
    )
    if log:
        print("test scores revealed:")
        emit_rows(log, False, empty="none was revealed")
    emit(about, False)


def _test_value(runs: list[str]) -> float | None:
    """Return the mean headline test score of a finalist's runs, None where there is none."""
    from perturbfm_core import schema
    from perturbfm_core.leaderboard.headline import headline_value
    from perturbfm_core.store.atomic import read_json

    values = [
        value
        for run in runs
        if (file := store().run(run) / schema.METRICS_FILE).is_file()
        and (value := headline_value(read_json(file))) is not None
    ]
    return sum(values) / len(values) if values else None
