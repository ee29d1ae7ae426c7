"""``perturbfm eval``: predictions that were made elsewhere, scored with the panels of any run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core import schema
from perturbfm_core.cli.output import JsonOption, SplitDataOption, SplitOption, emit, progress, store
from perturbfm_core.cli.prediction_options import (
    AgainOption,
    ConditionColumn,
    ContextColumn,
    ControlLabel,
    GeneColumn,
    GeneratorOption,
    KindOption,
    Layer,
    MissingConditions,
    MissingOption,
    NoteOption,
    PerturbationColumn,
    SeedOption,
    UrlOption,
    described_scores,
)
from perturbfm_core.errors import ConfigError

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
    split: SplitOption,
    preds: Annotated[Path, typer.Option("--preds", help="The prediction file: npz, h5ad, parquet or CSV.")],
    data: SplitDataOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory for metrics, scores and report.")
    ] = None,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="In place of --out: publish a run as --entry, as `submit` does."),
    ] = False,
    entry: Annotated[str | None, typer.Option(help="Name to show in the report (default: external).")] = None,
    kind: KindOption = None,
    missing: MissingConditions = MissingOption.refuse,
    condition_col: ConditionColumn = None,
    pert_col: PerturbationColumn = None,
    context_col: ContextColumn = None,
    control_label: ControlLabel = None,
    layer: Layer = None,
    gene_col: GeneColumn = None,
    generator: GeneratorOption = None,
    seed: SeedOption = 0,
    note: NoteOption = None,
    url: UrlOption = None,
    again: AgainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a prediction file on a split, with the same panels as any run."""
    if publish == (out is not None):
        msg = (
            "give --out DIR to write the scores there, or --publish to publish them as a run, one of the two"
        )
        raise ConfigError(msg)
    if out is None:
        from perturbfm_core.cli.submit import submit

        if entry is None:
            msg = "--publish needs --entry NAME, the name on the leaderboard"
            raise ConfigError(msg)
        submit(
            preds, split, entry, data, seed, note, url, kind, missing, condition_col, pert_col, context_col,
            control_label, layer, gene_col, generator, again, as_json,
        )  # fmt: skip
        return
    if seed or note is not None or url is not None or again:
        msg = (
            "--seed, --note, --url and --again are recorded with a run; they need --publish in place of --out"
        )
        raise ConfigError(msg)
    from perturbfm_core.data.prediction_labels import LabelColumns
    from perturbfm_core.pipeline.dataset import dataset_of
    from perturbfm_core.pipeline.submission import evaluate_file
    from perturbfm_core.splits.folder import SplitFolder

    home = store()
    frozen_split = SplitFolder(home.split_dir).load(split)
    ds = dataset_of(home, frozen_split, data)
    columns = LabelColumns(condition_col, pert_col, context_col, control_label, layer, gene_col)
    with progress() as tell:
        tell("scoring")
        scores = evaluate_file(
            home,
            ds,
            frozen_split,
            preds,
            out,
            entry=entry or "external",
            kind=None if kind is None else kind.value,
            missing=missing.value,
            columns=columns,
            generator=None if generator is None else generator.value,
        )
    emit(
        {
            "metrics": str(out / schema.METRICS_FILE),
            "scores": str(out / schema.SCORES_FILE),
            "report": str(out / schema.REPORT_FILE),
            **described_scores(scores),
        },
        as_json,
    )
