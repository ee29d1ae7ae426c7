"""``perturbfm eval``: predictions that were made elsewhere, scored with the panels of any run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturbfm_core import schema
from perturbfm_core.cli.output import DataOption, JsonOption, SplitOption, emit, progress, store

if TYPE_CHECKING:
    from perturbfm_core.evaluation.comparison import Comparison

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Score predictions made elsewhere.",
)


@app.callback()
def _group() -> None:
    """Score predictions made elsewhere."""


class PredictionKindOption(StrEnum):
    """What the numbers of a prediction are."""

    delta = "delta"
    expression = "expression"


class _Missing(StrEnum):
    """What is done about test conditions that a prediction lacks."""

    refuse = "refuse"
    control = "control"


@app.command("predictions")
def eval_predictions(
    data: DataOption,
    split: SplitOption,
    preds: Annotated[Path, typer.Option("--preds", help="The prediction file: npz, h5ad, parquet or CSV.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for metrics, scores and report.")],
    entry: Annotated[str, typer.Option(help="Name to show in the report.")] = "external",
    kind: Annotated[
        PredictionKindOption | None,
        typer.Option(
            help="What the numbers are: delta from the control, or expression in the scale of the data set, of which the "
            "matched control is subtracted (default: as the file says, else recognised)."
        ),
    ] = None,
    missing: Annotated[
        _Missing,
        typer.Option(
            help="Test conditions that the file lacks: refuse it, or score their control in their place, which is counted."
        ),
    ] = _Missing.refuse,
    condition_col: Annotated[
        str | None, typer.Option(help="Column with condition keys (default: recognised).")
    ] = None,
    pert_col: Annotated[
        str | None, typer.Option(help="Column with perturbations (default: recognised).")
    ] = None,
    context_col: Annotated[
        str | None, typer.Option(help="Column with contexts, such as cell lines (default: recognised).")
    ] = None,
    control_label: Annotated[
        str | None, typer.Option(help="Perturbation label of control cells, which are left out.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of an h5ad file to read instead of X.")] = None,
    gene_col: Annotated[
        str | None, typer.Option(help="var column of an h5ad file with gene ids, instead of its index.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a prediction file on a split, with the same panels as any run."""
    from perturbfm_core.data.prediction_labels import LabelColumns
    from perturbfm_core.evaluation.panel import headlines
    from perturbfm_core.pipeline.dataset import open_dataset
    from perturbfm_core.pipeline.submission import evaluate_file
    from perturbfm_core.splits.folder import SplitFolder

    home = store()
    frozen_split = SplitFolder(home.split_dir).load(split)
    ds = open_dataset(data)
    columns = LabelColumns(condition_col, pert_col, context_col, control_label, layer, gene_col)
    with progress() as tell:
        tell("scoring")
        scores = evaluate_file(
            home,
            ds,
            frozen_split,
            preds,
            out,
            entry=entry,
            kind=None if kind is None else kind.value,
            missing=missing.value,
            columns=columns,
        )
    notes = scores.comparison.notes
    emit(
        {
            "metrics": str(out / schema.METRICS_FILE),
            "scores": str(out / schema.SCORES_FILE),
            "report": str(out / schema.REPORT_FILE),
            "alignment": scores.comparison.alignment,
            "kind": notes["kind"],
            "kind_from": notes["kind_from"],
            "cells": _cells(scores.comparison),
            "cell_panels": scores.cell_panels,
            **{name: notes[name] for name in _COUNTS if name in notes},
            **headlines(scores.metrics),
            **scores.flags,
            "warnings": notes["warnings"],
        },
        as_json,
    )


# What is said of a file beside its scores, where it occurs.
_COUNTS = (
    *("missing_as_control", "conditions_not_asked_for", "unknown_conditions", "rows_not_asked_for"),
    *("genes_not_asked_for", "control_rows_dropped", "rows_averaged", "cell_values_cut_at_0"),
)


def _cells(comparison: Comparison) -> str:
    """Return where the predicted cells come from that some panels read."""
    cells = comparison.cells
    if cells is None:
        return "none: the data set has no single cells with controls"
    drawn = f"drawn from control cells ({cells.generator.name})"
    if not cells.n_own:
        return drawn
    own = "the prediction's own"
    return (
        own
        if cells.n_own == len(cells)
        else f"{own} for {cells.n_own} of {len(cells)} conditions, else {drawn}"
    )
