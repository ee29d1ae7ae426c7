"""``perturbfm export, demo``: what a run left as a table, whole suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core import schema
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.cli.leaderboard import warn_of_skipped
from perturbfm_core.cli.output import JsonOption, emit, emit_table, progress, store
from perturbfm_core.errors import ConfigError
from perturbfm_core.store.atomic import write_atomic


def export(
    run: Annotated[str, typer.Argument(help="Run directory, id or prefix of the id.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: .h5ad, .parquet or .csv.")],
    what: Annotated[str, typer.Option("--what", help="predictions or scores.")] = "predictions",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run's predictions (condition x gene) or scores as h5ad, parquet or CSV."""
    from perturbfm_core.cli.export import export_bytes

    path = store().find_run(run)
    if out.exists() and not force:
        msg = f"{out} already exists; choose another --out, or give --force to replace it"
        raise ConfigError(msg)
    content, shape = export_bytes(path, what, out.suffix.lower())
    write_atomic(out, content)
    emit({"out": str(out), "what": what, "rows": shape[0], "columns": shape[1]}, as_json)


def demo(
    suite: Annotated[str, typer.Option(help="The suite to run.")] = "demo",
    again: Annotated[
        bool,
        typer.Option("--again", help="Publish new runs though there are some of the same inputs and code."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a whole suite (default: the embedded demo) and show the leaderboard."""
    from perturbfm_core.leaderboard import database
    from perturbfm_core.leaderboard.tables import HEADLINE_SQL
    from perturbfm_core.pipeline.leaderboard import rank
    from perturbfm_core.pipeline.run import run_entry, suite_members, suite_splits

    home, catalog = store(), load_catalog()
    chosen = catalog.suite(suite)
    for entry in chosen.models:
        # An unknown one is reported before anything is made for the others.
        catalog.model(entry)
    with progress() as tell:
        hashes = suite_splits(home, chosen, tell)
    members = suite_members(home, chosen, hashes)
    last: Path | None = None
    with progress(len(members)) as tell:
        for member in members:
            if member.reason is None:
                last = run_entry(home, member.split, catalog.model(member.entry), again=again, tell=tell)[-1]
            tell("done:")
        tell("ranking")
        rank(home)
    skipped_runs = warn_of_skipped(home)
    board = database.query(home, HEADLINE_SQL)
    skipped = [{"split": m.split[:12], "entry": m.entry, "reason": m.reason} for m in members if m.reason]
    result = {
        "experiments": len(members) - len(skipped),
        "not_applicable": skipped,
        "skipped": skipped_runs,
        "leaderboard": str(home.leaderboard),
        "leaderboard_page": str(home.leaderboard_page),
        "report": str(last / schema.REPORT_FILE) if last else None,
    }
    if as_json:
        emit(
            {
                **result,
                "standings": board.astype(object).where(board.notna(), None).to_dict(orient="records"),
            },
            True,
        )
        return
    emit_table(board, False)
    emit(result, False)


COMMANDS = {"export": (export, None), "demo": (demo, None)}
