"""``perturbfm eval, export, demo``: predictions made elsewhere, what a run left, whole suites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from perturbfm_core import pipeline, schema, suites
from perturbfm_core.catalog import load_catalog
from perturbfm_core.cli.output import (
    DataOption,
    JsonOption,
    SplitOption,
    emit,
    emit_table,
    progress,
    store,
)
from perturbfm_core.errors import ConfigError
from perturbfm_core.leaderboard import database
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store import write_atomic

eval_app = typer.Typer(no_args_is_help=True, help="Score predictions made elsewhere.")


def headlines(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the headline metric of every panel of a run."""
    from perturbfm_core.evaluation import PANELS

    return {
        f"{p}.{panel.headline}": metrics[p]["global"].get(panel.headline)
        for p, panel in PANELS.items()
        if p in metrics
    }


@eval_app.command("predictions")
def eval_predictions(
    data: DataOption,
    split: SplitOption,
    preds: Annotated[Path, typer.Option("--preds", help="The predictions.npz.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for metrics, scores and report.")],
    entry: Annotated[str, typer.Option(help="Name to show in the report.")] = "external",
    as_json: JsonOption = False,
) -> None:
    """Score a prediction file on a split, with the same panels as any run."""
    home = store()
    frozen = SplitFolder(home.split_dir).load(split)
    ds = pipeline.open_dataset(data)
    with progress() as tell:
        tell("scoring")
        scores = pipeline.evaluate_file(home, ds, frozen, preds, out, entry=entry)
    emit(
        {
            "metrics": str(out / schema.METRICS_FILE),
            "scores": str(out / schema.SCORES_FILE),
            "report": str(out / schema.REPORT_FILE),
            "alignment": scores.comparison.alignment,
            **headlines(scores.metrics),
            **scores.flags,
        },
        as_json,
    )


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
    as_json: JsonOption = False,
) -> None:
    """Run a whole suite (default: the embedded demo) and show the leaderboard."""
    home, catalog = store(), load_catalog()
    chosen = catalog.suite(suite)
    with progress() as tell:
        hashes = suites.suite_splits(home, chosen, tell)
    cells = suites.suite_cells(home, chosen, hashes)
    last: Path | None = None
    with progress(len(cells)) as tell:
        for cell in cells:
            if cell.reason is None:
                last = pipeline.run_cell(home, cell.split, catalog.model(cell.entry), progress=tell)[-1]
            tell("done:")
        tell("ranking")
        pipeline.rank(home)
    board = database.query(home, pipeline.HEADLINE_SQL)
    skipped = [{"split": c.split[:12], "entry": c.entry, "reason": c.reason} for c in cells if c.reason]
    result = {
        "cells": len(cells) - len(skipped),
        "not_applicable": skipped,
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
