"""``perturbfm leaderboard``: rebuilding, showing and asking the leaderboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturbfm_core.cli.output import JsonOption, emit, emit_table, progress, store

if TYPE_CHECKING:
    from perturbfm_core.store.artifacts import ArtifactStore

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Rebuild, show and query the leaderboard.",
)


@app.command("refresh")
def refresh(as_json: JsonOption = False) -> None:
    """Rebuild the leaderboard from all complete runs and publish it; a run that cannot be read is skipped."""
    from perturbfm_core.leaderboard import database
    from perturbfm_core.pipeline import leaderboard as stage

    home = store()
    with progress() as tell:
        tell("ranking")
        target = stage.rank(home)
    counts = database.query(home, "SELECT count(*) AS runs, count(DISTINCT entry) AS entries FROM runs")
    emit(
        {
            "leaderboard": str(home.leaderboard),
            "file": str(target),
            "page": str(home.leaderboard_page),
            "runs": int(counts["runs"].iloc[0]),
            "entries": int(counts["entries"].iloc[0]),
            "skipped": warn_of_skipped(home),
        },
        as_json,
    )


def warn_of_skipped(home: ArtifactStore) -> int:
    """Name the runs that the published leaderboard lacks on standard error, one line each; return their number."""
    from perturbfm_core.leaderboard import database

    skipped = database.query(home, "SELECT run, reason FROM skipped ORDER BY run")
    for row in skipped.itertuples(index=False):
        print(f"warning: run {row.run} is skipped: {row.reason}", file=sys.stderr)
    return len(skipped)


@app.command("show")
def show(
    metric: Annotated[str, typer.Option(help="Metric as PANEL.METRIC.")] = "delta.pearson",
    board: Annotated[str | None, typer.Option(help="Only boards whose name contains this.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the standings of one metric, one board per split or cross-validation."""
    from perturbfm_core.evaluation.metric import METRICS
    from perturbfm_core.leaderboard import database

    METRICS.get(metric)
    panel, _, name = metric.partition(".")
    frame = database.query(
        store(),
        "SELECT board, rank, entry, family, value, ci_low, ci_high, diff_best_baseline, diff_low, diff_high, best_baseline, "
        "ceiling, null_floor, n_conditions, n_undefined, no_signal, shared_control FROM leaderboard "
        f"WHERE panel = '{panel}' AND metric = '{name}' ORDER BY board, rank NULLS LAST, entry",
    )
    if board is not None:
        frame = frame[frame["board"].str.contains(board, regex=False)]
    emit_table(frame, as_json)


@app.command("compare")
def compare(
    metric: Annotated[
        str, typer.Option(help="Metric of panel delta: pearson_centered or pearson.")
    ] = "pearson_centered",
    family: Annotated[
        str | None, typer.Option(help="Entries of this family (default: all that are no baselines).")
    ] = None,
    board: Annotated[str | None, typer.Option(help="Only boards whose name contains this.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every learned entry with the baseline that inner folds chose, corrected for their number."""
    from perturbfm_core.leaderboard.significance import against_baseline

    frame = against_baseline(store(), metric, family)
    if board is not None:
        frame = frame[frame["board"].str.contains(board, regex=False)]
    emit_table(frame, as_json)


@app.command("results")
def results(
    into: Annotated[
        Path | None, typer.Option(help="Rewrite this file between its results markers, instead of printing.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the table of results and the comparison of models as Markdown."""
    from perturbfm_core.pipeline import leaderboard as stage
    from perturbfm_core.reports.results import replace_between

    text = stage.results(store())
    if into is not None:
        replace_between(into, text)
        emit({"written": str(into), "lines": text.count("\n") + 1}, as_json)
    elif as_json:
        emit({"markdown": text}, True)
    else:
        typer.echo(text)


@app.command("sql")
def sql(
    statement: Annotated[
        str,
        typer.Argument(
            help="One SQL statement; tables scores, runs, splits, datasets, skipped; view leaderboard."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Run SQL on the published leaderboard, read-only."""
    from perturbfm_core.leaderboard import database

    emit_table(database.query(store(), statement), as_json)
