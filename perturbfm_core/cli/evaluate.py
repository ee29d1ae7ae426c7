"""``perturbfm eval``: predictions that were made elsewhere, scored with the panels of any run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core import schema
from perturbfm_core.cli.output import DataOption, JsonOption, SplitOption, emit, progress, store

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Score predictions made elsewhere.",
)


@app.callback()
def _group() -> None:
    """Score predictions made elsewhere."""


@app.command("predictions")
def eval_predictions(
    data: DataOption,
    split: SplitOption,
    preds: Annotated[Path, typer.Option("--preds", help="The predictions.npz.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for metrics, scores and report.")],
    entry: Annotated[str, typer.Option(help="Name to show in the report.")] = "external",
    as_json: JsonOption = False,
) -> None:
    """Score a prediction file on a split, with the same panels as any run."""
    from perturbfm_core.evaluation.panel import headlines
    from perturbfm_core.pipeline.dataset import open_dataset
    from perturbfm_core.pipeline.submission import evaluate_file
    from perturbfm_core.splits.folder import SplitFolder

    home = store()
    frozen_split = SplitFolder(home.split_dir).load(split)
    ds = open_dataset(data)
    with progress() as tell:
        tell("scoring")
        scores = evaluate_file(home, ds, frozen_split, preds, out, entry=entry)
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
