"""``perturbfm train, run, eval, models, export, demo``: cells of the grid from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from perturbfm_core import pipeline, schema, suites
from perturbfm_core.catalog import load_catalog
from perturbfm_core.cli.output import (
    DataOption,
    JsonOption,
    SplitOption,
    emit,
    emit_table,
    parse_pairs,
    progress,
    store,
)
from perturbfm_core.config import ModelEntry, check_key, parse
from perturbfm_core.errors import ConfigError, ModelError
from perturbfm_core.leaderboard import database
from perturbfm_core.models import MODELS, new_model
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store import read_json, write_atomic

models_app = typer.Typer(no_args_is_help=True, help="Look at models and catalog entries.")
eval_app = typer.Typer(no_args_is_help=True, help="Score predictions made elsewhere.")


@models_app.command("list")
def models_list(as_json: JsonOption = False) -> None:
    """List the registered models and the catalog entries made of them."""
    entries = load_catalog().models.values()
    rows = [
        {
            "model": name,
            "family": kind.family,
            "entries": ", ".join(e.name for e in entries if e.model == name) or None,
            "parameters": ", ".join(f"{k}={v}" for k, v in kind.Params().model_dump(mode="json").items())
            or None,
            "description": (kind.__doc__ or "").strip().split("\n")[0],
        }
        for name, kind in MODELS.items()
    ]
    emit_table(pd.DataFrame(rows), as_json)


def train(
    model: Annotated[str, typer.Argument(help="A registered model, or 'baseline' with --baseline.")],
    data: DataOption,
    split: SplitOption,
    baseline: Annotated[str | None, typer.Option(help="Name of the baseline, with 'train baseline'.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="A parameter NAME=VALUE (repeatable).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    entry: Annotated[str | None, typer.Option(help="Name in the leaderboard (default: the model's).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a model on a split, predict, score, and publish the run."""
    if (model == "baseline") != (baseline is not None):
        msg = f"'train baseline' takes --baseline NAME; baselines: {', '.join(_baselines())}"
        raise ModelError(msg)
    name = baseline or model
    if baseline is not None and name not in _baselines():
        msg = f"unknown baseline {name!r}; known: {', '.join(_baselines())}"
        raise ModelError(msg)
    params = parse_pairs(param or [], "--param")
    new_model(name, params)
    chosen = parse(
        ModelEntry,
        {
            "name": check_key(entry or name, "--entry"),
            "description": "from the command line",
            "model": name,
            "params": params,
            "seeds": (seed,),
        },
        "train options",
    )
    _report_runs(_cell(split, chosen, data, as_json), as_json)


def _baselines() -> list[str]:
    return [name for name, kind in MODELS.items() if kind.family == "baseline"]


def run(
    split: SplitOption,
    entry: Annotated[str, typer.Option("--entry", help="A catalog entry (see `perturbfm models list`).")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory of the data (default: looked for).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run one whole cell of the grid, all seeds of the entry, without a Dagster instance."""
    _report_runs(_cell(split, load_catalog().model(entry), data, as_json), as_json)


def _cell(split: str, entry: ModelEntry, data: Path | None, silent: bool) -> list[Path]:
    with progress(silent=silent) as tell:
        return pipeline.run_cell(store(), split, entry, data=data, progress=tell)


def _report_runs(paths: list[Path], as_json: bool) -> None:
    results = [_run_summary(path) for path in paths]
    if as_json:
        emit({"runs": results} if len(results) > 1 else results[0], True)
        return
    for result in results:
        emit(result, False)


def _run_summary(path: Path) -> dict[str, Any]:
    config = read_json(path / schema.CONFIG_FILE)
    metrics = read_json(path / schema.METRICS_FILE)
    return {
        "run_dir": str(path),
        "run_id": config["run_id"],
        "entry": config["entry"],
        "seed": config["seed"],
        "split_hash": config["split"]["hash"],
        **_headlines(metrics),
        "no_signal": config["flags"]["no_signal"],
        "shared_control": config["flags"]["shared_control"],
        "report": str(path / schema.REPORT_FILE),
    }


def _headlines(metrics: dict[str, Any]) -> dict[str, Any]:
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
            **_headlines(scores.metrics),
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
