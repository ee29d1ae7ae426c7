"""``perturbfm export, demo``: what a run left as a table, whole suites."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.boards import board_lines, borrowing_entries, undefined_reasons, warned_entries
from perturbfm_core.cli.output import JsonOption, SplitDataOption, emit, progress, store
from perturbfm_core.errors import ConfigError
from perturbfm_core.store.atomic import write_atomic


class ExportFormat(StrEnum):
    """Forms in which predictions are written."""

    conditions = "conditions"
    vcc2026 = "vcc2026"


def export(
    run: Annotated[str, typer.Argument(help="Run directory, id or prefix of the id.")],
    out: Annotated[Path, typer.Option("--out", help="File to write: .h5ad, .parquet or .csv.")],
    what: Annotated[str, typer.Option("--what", help="predictions or scores.")] = "predictions",
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="A row per condition, or the h5ad of counts of cells that the 2026 Virtual Cell Challenge takes.",
        ),
    ] = ExportFormat.conditions,
    context: Annotated[
        str | None, typer.Option("--context", help="vcc2026: the context, where the split tests several.")
    ] = None,
    pert_col: Annotated[
        str | None, typer.Option("--pert-col", help="vcc2026: obs column of the labels (default: target).")
    ] = None,
    control_label: Annotated[
        str | None,
        typer.Option("--control-label", help="vcc2026: label of control cells (default: non-targeting)."),
    ] = None,
    real: Annotated[
        Path | None, typer.Option("--real", help="vcc2026: also write the measured cells, for `score-pair`.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="vcc2026: also write the cells of the mean-response baseline."),
    ] = None,
    data: SplitDataOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run's predictions (condition x gene) or scores as h5ad, parquet or CSV."""
    from perturbfm_core.cli.export import export_bytes
    from perturbfm_core.cli.export_counts import ChallengeFiles, export_counts

    home = store()
    path = home.find_run(run)
    for option, file in (("--out", out), ("--real", real), ("--baseline", baseline)):
        if file is not None and file.exists() and not force:
            msg = f"{file} already exists; choose another {option}, or give --force to replace it"
            raise ConfigError(msg)
    files = ChallengeFiles(
        out, real, baseline, context, pert_col or "target", control_label or "non-targeting", data
    )
    if form is ExportFormat.vcc2026:
        if what != "predictions":
            msg = f"--format vcc2026 is a form of predictions; leave out --what {what}"
            raise ConfigError(msg)
        with progress() as tell:
            tell("drawing cells")
            emit(export_counts(home, path, files), as_json)
        return
    if (given := files.only_of_the_challenge(pert_col, control_label)) is not None:
        msg = f"{given} belongs to --format vcc2026, which writes counts of cells; give that, or leave it out"
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
    from perturbfm_core.cli.suite_running import carry_out
    from perturbfm_core.leaderboard import database
    from perturbfm_core.leaderboard.headline import board_sql, headline_of

    done = carry_out(suite, again=again, silent=as_json, lines=False)
    board = database.query(done.home, board_sql())
    cannot = [o for o in done.outcomes if o.state == "not applicable"]
    result = {
        "experiments": len(done.outcomes) - len(cannot),
        "not_applicable": [
            {"split": (o.cell.split.hash or "")[:12], "entry": o.cell.entry, "reason": o.reason}
            for o in cannot
        ],
        "failed": len(done.failed),
        "skipped": done.skipped,
        "leaderboard": str(done.home.leaderboard),
        "leaderboard_page": str(done.home.leaderboard_page),
        "scorecard_page": None if done.page is None else str(done.page),
        "report": None if done.last_report is None else str(done.last_report),
    }
    if as_json:
        standings = board.astype(object).where(board.notna(), None).to_dict(orient="records")
        emit({**result, "standings": standings}, True)
    else:
        undefined, borrowing = undefined_reasons(done.home, headline_of()), borrowing_entries(done.home)
        for line in board_lines(board, headline_of(), undefined, borrowing, warned_entries(done.home)):
            print(line)
        emit(result, False)
    if done.failed:
        raise typer.Exit(1)


COMMANDS = {"export": (export, None), "demo": (demo, None)}
