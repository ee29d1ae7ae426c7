"""``perturbfm pretrain``: a cell encoder on the train rows of a split."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from perturbfm_core import schema
from perturbfm_core.cli.output import JsonOption, SplitDataOption, SplitOption, emit, progress, store
from perturbfm_core.config import parse
from perturbfm_core.errors import ConfigError
from perturbfm_core.store.atomic import publish_directory, read_json

_FORM = ("kind", "dim", "hidden_dim", "n_layers", "n_heads", "n_latents", "dropout", "hvg_count")
_LOOP = ("epochs", "batch_size", "lr", "weight_decay", "patience", "precision", "compile")


def pretrain(
    split: SplitOption,
    data: SplitDataOption = None,
    objective: Annotated[str | None, typer.Option(help="denoise, mask or both (default).")] = None,
    encoder: Annotated[str, typer.Option(help="mlp or set-transformer.")] = "mlp",
    dim: Annotated[int | None, typer.Option(help="Size of a cell's state (default 64).")] = None,
    hidden_dim: Annotated[int | None, typer.Option(help="Width of hidden layers (default 256).")] = None,
    n_layers: Annotated[int | None, typer.Option(help="Layers, or blocks of attention (default 2).")] = None,
    n_heads: Annotated[int | None, typer.Option(help="Heads of attention (default 4).")] = None,
    n_latents: Annotated[int | None, typer.Option(help="Latent vectors of attention (default 64).")] = None,
    dropout: Annotated[float | None, typer.Option(help="Drop-out in training (default 0.1).")] = None,
    hvg_count: Annotated[
        int | None,
        typer.Option(help="Most variable genes of the train rows to read (mlp: all, set-transformer: 1000)."),
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Noise to undo, in standard deviations.")] = None,
    zero_rate: Annotated[float | None, typer.Option(help="Share of values set to zero.")] = None,
    mask_rate: Annotated[float | None, typer.Option(help="Share of genes hidden.")] = None,
    max_cells: Annotated[int | None, typer.Option(help="Most cells to use (default 20000).")] = None,
    epochs: Annotated[int | None, typer.Option(help="Most epochs (default 50).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Cells per step (default 128).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate (default 0.001).")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay (default 0.01).")] = None,
    patience: Annotated[int | None, typer.Option(help="Epochs without a better score (default 8).")] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16; mixed on CUDA only.")] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Compile the network on CUDA.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also copy the encoder to this new folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Pre-train a cell encoder on the train rows of a split, for `--pretrained-encoder`."""
    from perturbfm_core.pipeline import pretrained_encoder as stage
    from perturbfm_core.pipeline.dataset import dataset_of
    from perturbfm_core.splits.folder import SplitFolder

    given = {k: v for k, v in {**locals(), "kind": encoder, "compile": compile_}.items() if v is not None}
    config = _config(given)
    if out is not None and out.exists():
        # What would be refused at the end is refused before the work.
        msg = f"{out} already exists; choose another --out"
        raise ConfigError(msg)
    home = store()
    frozen_split = SplitFolder(home.split_dir).load(split)
    ds = dataset_of(home, frozen_split, data)
    with progress(silent=as_json) as tell:
        made = stage.pretrain(home, ds, frozen_split, config, seed, tell)
    if out is not None:
        publish_directory(out, lambda folder: _copy(made.path, folder))
    record = read_json(made.path / schema.ENCODER_META_FILE)
    training = record["training"]
    emit(
        {
            "encoder": made.key,
            "path": str(out or made.path),
            "reused": made.reused,
            "split_hash": record["split_hash"],
            "objective": record["objective"],
            "cells": training["cells"],
            "genes_read": training["genes_read"],
            "epochs": training["epochs"],
            "best_epoch": training["best_epoch"],
            "validation_score": training["best_score"],
            "device": training["device"],
        },
        as_json,
    )


def _config(given: dict[str, Any]) -> Any:
    """Return the settings of the kind, with what was given on the command line."""
    from perturbfm_core.pipeline.pretrained_encoder import default_config

    base = default_config(given["kind"]) if given["kind"] == "set-transformer" else default_config()
    settings = base.model_dump()
    settings["encoder"] |= {k: given[k] for k in _FORM if k in given}
    settings["loop"] |= {k: given[k] for k in _LOOP if k in given}
    settings |= {k: v for k, v in given.items() if k in settings and k not in ("encoder", "loop")}
    return parse(type(base), settings, "pretrain options")


def _copy(source: Path, folder: Path) -> None:
    for name in (schema.ENCODER_FILE, schema.ENCODER_META_FILE):
        shutil.copyfile(source / name, folder / name)


COMMANDS = {"pretrain": (pretrain, None)}
