"""``perturbfm predictions``: files that a model which lives elsewhere fills in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perturbfm_core.cli.output import JsonOption, SplitDataOption, SplitOption, emit, store
from perturbfm_core.cli.prediction_options import PredictionKindOption
from perturbfm_core.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Make the file that a model of your own fills in.",
)


@app.callback()
def _group() -> None:
    """Make the file that a model of your own fills in."""


@app.command("template")
def template(
    split: SplitOption,
    out: Annotated[Path, typer.Option("--out", help="File to write: .csv, .parquet, .h5ad or .npz.")],
    kind: Annotated[
        PredictionKindOption,
        typer.Option(
            help="What is filled in: deltas from the control, or expression in the scale of the data set."
        ),
    ] = PredictionKindOption.delta,
    data: SplitDataOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the test conditions of a split x genes, to be filled in and scored by `eval predictions`."""
    from perturbfm_core.data.prediction_template import template_bytes
    from perturbfm_core.pipeline.dataset import dataset_of
    from perturbfm_core.pipeline.submission import tested_keys
    from perturbfm_core.splits.folder import SplitFolder
    from perturbfm_core.store.atomic import write_atomic

    if out.exists() and not force:
        msg = f"{out} already exists; choose another --out, or give --force to replace it"
        raise ConfigError(msg)
    frozen_split = SplitFolder(store().split_dir).load(split)
    ds = dataset_of(store(), frozen_split, data)
    keys = tested_keys(ds, frozen_split)
    content = template_bytes(
        out.suffix.lower(), keys, ds.genes, kind=kind.value, split_hash=frozen_split.hash
    )
    write_atomic(out, content)
    emit({"out": str(out), "conditions": len(keys), "genes": ds.n_genes, "kind": kind.value}, as_json)
