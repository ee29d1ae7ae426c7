"""``perturbfm leaderboard``: rebuilding, showing and asking the leaderboard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturbfm_core.cli.boards import board_lines, borrowing_entries, undefined_reasons, warned_entries
from perturbfm_core.cli.leaderboard_export import export
from perturbfm_core.cli.leaderboard_page import page
from perturbfm_core.cli.output import JsonOption, emit, emit_csv, emit_table, progress, store
from perturbfm_core.leaderboard.headline import HEADLINE, HEADLINE_METRIC

if TYPE_CHECKING:
    from perturbfm_core.store.artifacts import ArtifactStore

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Rebuild, show and query the leaderboard.",
)


app.command("page")(page)
app.command("export")(export)


@app.command("refresh")
def refresh(
    from_nothing: Annotated[
        bool,
        typer.Option("--from-nothing", help="Read all runs again (default: those that are new or changed)."),
    ] = False,
    with_page: Annotated[
        bool, typer.Option("--page/--no-page", help="Write its page as well (as `leaderboard page` does).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the leaderboard up to date with all complete runs and publish it; what cannot be read is skipped."""
    from perturbfm_core.leaderboard import database
    from perturbfm_core.pipeline import leaderboard as stage

    home = store()
    with progress() as tell:
        tell("ranking")
        target = stage.rank(home, page=with_page, from_nothing=from_nothing)
    counts = database.query(home, "SELECT count(*) AS runs, count(DISTINCT entry) AS entries FROM runs")
    emit(
        {
            "leaderboard": str(home.leaderboard),
            "file": str(target),
            **({"page": str(home.leaderboard_page)} if with_page else {}),
            "runs": int(counts["runs"].iloc[0]),
            "entries": int(counts["entries"].iloc[0]),
            "skipped": warn_of_skipped(home),
        },
        as_json,
    )


def warn_of_skipped(home: ArtifactStore) -> int:
    """Name what could not be read into the published leaderboard, a line each on standard error; return how many."""
    from perturbfm_core.leaderboard import database

    skipped = database.query(home, "SELECT run, kind, reason FROM skipped ORDER BY run")
    for row in skipped.itertuples(index=False):
        print(f"warning: {row.kind} {row.run} is skipped: {row.reason}", file=sys.stderr)
    return len(skipped)


def warn_if_older(home: ArtifactStore) -> None:
    """Say on standard error that runs were made or removed since the leaderboard was published, if some were."""
    from perturbfm_core.errors import StoreError
    from perturbfm_core.leaderboard import database

    try:
        read = database.query(
            home, "SELECT path FROM runs UNION ALL SELECT run FROM skipped WHERE kind = 'run'"
        )
    except StoreError:
        # A database of an earlier version lacks columns; what is asked of it may be there all the same.
        print(
            "warning: the leaderboard was made by an earlier version; `perturbfm leaderboard refresh` makes it anew",
            file=sys.stderr,
        )
        return
    known, there = {Path(p).name for p in read["path"]}, {p.name for p in home.run_like()}
    made, removed = len(there - known), len(known - there)
    if made or removed:
        print(
            f"warning: the leaderboard is older than the runs ({made} made, {removed} removed since); "
            "`perturbfm leaderboard refresh` counts them",
            file=sys.stderr,
        )


@app.command("show")
def show(
    metric: Annotated[str, typer.Option(help="Metric as PANEL.METRIC.")] = HEADLINE,
    board: Annotated[str | None, typer.Option(help="Only boards whose name contains this.")] = None,
    wide: Annotated[bool, typer.Option("--wide", help="All columns, one line per board and entry.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all columns as CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the standings of one metric between its floor and its ceiling, one table per split or cross-validation.

    The default is the headline metric of the benchmark. Every dash has a number, whose reason stands below.
    """
    from perturbfm_core.evaluation.metric import METRICS
    from perturbfm_core.leaderboard import database
    from perturbfm_core.leaderboard.headline import board_sql

    chosen = METRICS.get(metric)
    home = store()
    frame = database.query(home, board_sql(chosen))
    warn_if_older(home)
    known = sorted(frame["board"].unique())
    if board is not None:
        frame = frame[frame["board"].str.contains(board, regex=False)]
    what = (
        f"no board's name contains {board!r}"
        if board is not None and known
        else f"no run has scores of {metric}"
    )
    empty = f"{what}; boards: {', '.join(known) or 'none, run an entry and `perturbfm leaderboard refresh`'}"
    borrowing = borrowing_entries(home)
    warned = warned_entries(home)
    cells = zip(frame["board"], frame["entry"], strict=True)
    table = frame.assign(
        warned_of=[warned.get((str(b), str(e))) for b, e in cells],
        uses_other_screens=frame["entry"].isin(borrowing),
    )
    if as_csv:
        emit_csv(table.astype(object).where(table.notna(), None).to_dict(orient="records"))
    elif wide or as_json or frame.empty:
        emit_table(table, as_json, empty=empty)
    else:
        for line in board_lines(frame, chosen, undefined_reasons(home, chosen), borrowing, warned):
            print(line)


@app.command("compare")
def compare(
    metric: Annotated[
        str, typer.Option(help="Metric of panel delta: pearson_centered or pearson.")
    ] = HEADLINE_METRIC,
    family: Annotated[
        str | None, typer.Option(help="Entries of this family (default: all that are no baselines).")
    ] = None,
    board: Annotated[str | None, typer.Option(help="Only boards whose name contains this.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every learned entry with the baseline that inner folds chose, corrected for their number."""
    from perturbfm_core.leaderboard.significance import against_baseline

    home = store()
    frame = against_baseline(home, metric, family)
    warn_if_older(home)
    if board is not None:
        frame = frame[frame["board"].str.contains(board, regex=False)]
    emit_table(
        frame, as_json, empty="no entry of another family has run where a baseline was chosen on inner folds"
    )


@app.command("results")
def results(
    into: Annotated[
        Path | None, typer.Option(help="Rewrite this file between its results markers, instead of printing.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", help="Only the entries and boards of this suite, with CPU hours and what cannot run."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the table of results and the comparison of models as Markdown."""
    from perturbfm_core.catalog.loading import load_catalog
    from perturbfm_core.pipeline import leaderboard as stage
    from perturbfm_core.pipeline.suite_results import suite_results
    from perturbfm_core.reports.results import replace_between

    home = store()
    text = stage.results(home) if suite is None else suite_results(home, load_catalog().suite(suite))
    warn_if_older(home)
    if into is not None:
        replace_between(into, text, suite)
        emit({"written": str(into), "lines": text.count("\n") + 1}, as_json)
    elif as_json:
        emit({"markdown": text}, True)
    else:
        typer.echo(text)


@app.command("sql")
def sql(
    statement: Annotated[
        str,
        typer.Argument(help="One SQL statement; tables and views are described in docs/leaderboard_sql.md."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Run SQL on the published leaderboard, read-only."""
    from perturbfm_core.leaderboard import database

    home = store()
    found = database.query(home, statement)
    warn_if_older(home)
    emit_table(found, as_json, empty="the statement gives none")
