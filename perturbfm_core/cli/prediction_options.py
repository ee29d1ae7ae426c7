"""Options of prediction files, and the description of a scored one, for the verbs that take them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from perturbfm_core.evaluation.comparison import Comparison
    from perturbfm_core.pipeline.metric_panel import Scores


class PredictionKindOption(StrEnum):
    """What the numbers of a prediction are."""

    delta = "delta"
    expression = "expression"


class MissingOption(StrEnum):
    """What is done about test conditions that a prediction lacks."""

    refuse = "refuse"
    control = "control"


class GeneratorName(StrEnum):
    """Ways to draw counts of a point prediction."""

    multinomial = "multinomial"
    negative_binomial = "negative_binomial"
    redraw = "redraw"
    scaled = "scaled"


GeneratorOption = Annotated[
    GeneratorName | None,
    typer.Option(
        "--generator",
        help="How counts of cells are drawn of predicted means, for panels that read counts (default: multinomial).",
    ),
]
KindOption = Annotated[
    PredictionKindOption | None,
    typer.Option(
        "--kind",
        help="What the numbers are: delta from the control, or expression in the scale of the data set, of which the "
        "matched control is subtracted (default: as the file says, else recognised).",
    ),
]
MissingConditions = Annotated[
    MissingOption,
    typer.Option(
        "--missing",
        help="Test conditions that the file lacks: refuse it, or score their control in their place, which is counted.",
    ),
]
ConditionColumn = Annotated[
    str | None, typer.Option("--condition-col", help="Column with condition keys (default: recognised).")
]
PerturbationColumn = Annotated[
    str | None, typer.Option("--pert-col", help="Column with perturbations (default: recognised).")
]
ContextColumn = Annotated[
    str | None,
    typer.Option("--context-col", help="Column with contexts, such as cell lines (default: recognised)."),
]
ControlLabel = Annotated[
    str | None,
    typer.Option("--control-label", help="Perturbation label of control cells, which are left out."),
]
Layer = Annotated[str | None, typer.Option("--layer", help="Layer of an h5ad file to read instead of X.")]
GeneColumn = Annotated[
    str | None,
    typer.Option("--gene-col", help="var column of an h5ad file with gene ids, instead of its index."),
]
SeedOption = Annotated[
    int,
    typer.Option(
        "--seed", min=0, help="Seed that the model was trained with; files of several seeds are averaged."
    ),
]
NoteOption = Annotated[str | None, typer.Option("--note", help="A line about the model.")]
UrlOption = Annotated[
    str | None, typer.Option("--url", help="Where more is to be found: a paper, a repository.")
]
AgainOption = Annotated[
    bool, typer.Option("--again", help="Publish a new run though there is one of the same file.")
]

# What is said of a file beside its scores, where it occurs.
_COUNTS = (
    *("missing_as_control", "conditions_not_asked_for", "unknown_conditions", "rows_not_asked_for"),
    *("genes_not_asked_for", "control_rows_dropped", "control_rows_not_measured", "rows_averaged"),
    *("cell_values_cut_at_0", "guides_as_genes"),
)


def described_scores(scores: Scores) -> dict[str, Any]:
    """Return what a prediction file was taken for, its headline scores, and warnings."""
    from perturbfm_core.evaluation.panel import headlines

    notes = scores.comparison.notes
    return {
        "alignment": scores.comparison.alignment,
        "kind": notes["kind"],
        "kind_from": notes["kind_from"],
        "cells": _cells(scores.comparison),
        "cell_panels": scores.cell_panels,
        **{name: notes[name] for name in _COUNTS if name in notes},
        **headlines(scores.metrics),
        **scores.flags,
        "warnings": notes["warnings"],
    }


def described_run(path: Path) -> dict[str, Any]:
    """Return the same of a published run, from what it recorded."""
    from perturbfm_core import schema
    from perturbfm_core.evaluation.panel import headlines
    from perturbfm_core.store.atomic import read_json
    from perturbfm_core.store.run_record import read_run_record

    record = read_run_record(path)
    notes, made = record.notes, record.submission
    return {
        "run_id": record.run_id,
        "run_dir": str(path),
        "report": str(path / schema.REPORT_FILE),
        "entry": record.entry,
        "family": record.family,
        "seed": record.seed,
        "split_hash": record.split_hash,
        **({} if made is None else {"file_sha256": made.sha256, "note": made.note, "url": made.url}),
        "alignment": record.alignment,
        **{name: notes[name] for name in ("kind", "kind_from", *_COUNTS) if name in notes},
        **headlines(read_json(path / schema.METRICS_FILE)),
        **record.flags.model_dump(),
        "warnings": notes.get("warnings", []),
    }


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
