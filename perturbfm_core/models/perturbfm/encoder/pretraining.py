"""Pre-training of cell encoders on the train rows of a split, and the saved artifact of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from perturbfm_core.config import Frozen, parse
from perturbfm_core.data.hashing import genes_digest
from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.errors import ConfigError, ModelError
from perturbfm_core.models.perturbfm.encoder.module import (
    Encoder,
    EncoderConfig,
    encoder_from_state,
    highly_variable,
    new_encoder,
    state_arrays,
)
from perturbfm_core.progress import OnEpoch
from perturbfm_core.schema import ENCODER_FILE, ENCODER_META_FILE, FloatArray, IntArray, StrArray
from perturbfm_core.splits.view import TrainView
from perturbfm_core.store.atomic import read_json, write_atomic, write_json
from perturbfm_core.training.checkpoints import Checkpoint
from perturbfm_core.training.determinism import derived_seed, deterministic, seed_sequence, seed_torch
from perturbfm_core.training.device import resolve_device
from perturbfm_core.training.loop import LoopConfig, train
from perturbfm_core.training.options import DeviceName

ENCODER_SCHEMA_VERSION = 1

Objective = Literal["denoise", "mask", "both"]

_BLOCK = 2048
_SCALE_FLOOR = 0.1
_VALIDATION_CELLS = 1024


class PretrainConfig(Frozen):
    """How a cell encoder is pre-trained.

    Attributes
    ----------
    encoder
        Its architecture.
    objective
        ``denoise``: reconstruct expression from a copy with noise and drop-outs; ``mask``: reconstruct hidden
        genes from the others; ``both``.
    noise
        Standard deviation of the noise, in standard deviations of each gene.
    zero_rate
        Share of values set to zero expression, as in a cell that was sequenced less deeply.
    mask_rate
        Share of genes hidden from each cell.
    held_out
        Share of the train conditions whose cells are used for validation instead of training.
    max_cells
        Maximum number of cells, drawn once; None for all.
    loop
        Epochs and optimiser.
    device
        Where to train.
    """

    encoder: EncoderConfig = EncoderConfig()
    objective: Objective = "both"
    noise: float = Field(default=0.5, ge=0)
    zero_rate: float = Field(default=0.1, ge=0, lt=1)
    mask_rate: float = Field(default=0.25, gt=0, lt=1)
    held_out: float = Field(default=0.1, gt=0, lt=1)
    max_cells: int | None = Field(default=20_000, ge=2)
    loop: LoopConfig = LoopConfig(epochs=50, batch_size=128, patience=8)
    device: DeviceName = "auto"


@dataclass(frozen=True, eq=False)
class PretrainedEncoder:
    """A trained encoder and the data that it may be used on.

    Attributes
    ----------
    encoder
        In evaluation mode, on the CPU.
    genes
        Gene ids [G] of its input.
    config, seed
        How it was trained.
    split_hash
        The split whose train rows it was trained on.
    training
        Curves and counts (see `TrainingRecord`).
    """

    encoder: Encoder
    genes: StrArray
    config: PretrainConfig
    seed: int
    split_hash: str | None
    training: dict[str, Any]


def pretrain(
    view: TrainView,
    config: PretrainConfig,
    seed: int,
    *,
    split_hash: str | None = None,
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
) -> PretrainedEncoder:
    """Pre-train a cell encoder on the train rows of a split and their input controls.

    Rows are read through `TrainView.expression`, which refuses all others. Validation uses cells of held-out
    train conditions; genes are chosen and scaled on the remaining cells.

    Parameters
    ----------
    view
        Train view with its cells.
    config, seed
        What to train; the seed determines everything random.
    split_hash
        The split of `view`; stored in the artifact, which must not be used with any other split.
    on_epoch, checkpoint
        See `train`.

    Raises
    ------
    ModelError
        If the data have no expression, or the device is not available.
    """
    device = resolve_device(config.device)
    fitted, held = _cells(view, config, seed)
    mean, var = _moments(view, fitted)
    columns = highly_variable(mean, var, config.encoder.hvg_count)
    spread = np.sqrt(var[columns])
    floor = _SCALE_FLOOR * float(spread.mean())
    scale = np.maximum(spread, floor if floor > 0 else 1.0)
    with deterministic(derived_seed(seed, "encoder")):
        network = _Reconstruction(new_encoder(config.encoder, columns, mean[columns], scale), config)
    network.to(device)

    def expression(cells: IntArray) -> torch.Tensor:
        return torch.from_numpy(view.expression(cells)).to(device)

    def loss(module: Any, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        z = network.encoder.standardise(expression(fitted[rows.cpu().numpy()]))
        return network.errors(module, z)

    record = train(
        network,
        loss,
        len(fitted),
        config.loop,
        seed=derived_seed(seed, "epochs"),
        device=device,
        validate=_validation(expression, held, seed, device) if len(held) else None,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        phase="pre-training",
    )
    network.to("cpu")
    summary = {
        **record.to_json(),
        "cells": len(fitted),
        "validation_cells": len(held),
        "genes_read": len(columns),
    }
    return PretrainedEncoder(network.encoder.eval(), view.genes, config, seed, split_hash, summary)


class _Reconstruction(nn.Module):
    """An encoder with a decoder of its state; the decoder is discarded after pre-training."""

    def __init__(self, encoder: Encoder, config: PretrainConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        hidden = config.encoder.hidden_dim
        self.decoder = nn.Sequential(
            nn.Linear(encoder.dim, hidden), nn.GELU(), nn.Linear(hidden, len(encoder.columns))
        )

    def forward(self, z: torch.Tensor, masked: torch.Tensor | None = None) -> torch.Tensor:
        decoded: torch.Tensor = self.decoder(self.encoder.encode(z, masked))
        return decoded

    def errors(self, module: Any, z: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return mean squared errors of the objectives on standardised expression [n, H], newly corrupted."""
        config, parts = self.config, {}
        if config.objective != "mask":
            spoilt = z + config.noise * torch.randn_like(z)
            spoilt = torch.where(torch.rand_like(z) < config.zero_rate, self.encoder.zero, spoilt)
            parts["denoise"] = (module(spoilt) - z).square().mean()
        if config.objective != "denoise":
            masked = torch.rand_like(z) < config.mask_rate
            # Error on hidden genes only: visible genes could simply be copied.
            hidden = (module(z, masked) - z).square() * masked
            parts["mask"] = hidden.sum() / masked.sum().clamp_min(1)
        return {"loss": torch.stack(list(parts.values())).mean(), **parts}


def _validation(
    expression: Callable[[IntArray], torch.Tensor], held: IntArray, seed: int, device: torch.device
) -> Callable[[_Reconstruction], float]:
    """Return the validation score: 1 - loss / loss of predicting the mean, on held-out cells.

    The corruption of the cells is the same at every call.
    """
    x = expression(held)

    def validate(network: _Reconstruction) -> float:
        z = network.encoder.standardise(x)
        total = {}
        for name, module in (("network", network), ("mean", lambda z, *_: torch.zeros_like(z))):
            # Batches bound the memory of the gene tokens.
            seed_torch(derived_seed(seed, "validation"), device)
            parts = [network.errors(module, part)["loss"] * len(part) for part in torch.split(z, 256)]
            total[name] = float(torch.stack(parts).sum())
        return 1.0 - total["network"] / max(total["mean"], 1e-12)

    return validate


def _cells(view: TrainView, config: PretrainConfig, seed: int) -> tuple[IntArray, IntArray]:
    """Return (cells to train on, cells of held-out train conditions) as rows of the data set, ascending."""
    if view.dataset is None or view.fit_rows is None:
        msg = "pre-training needs the cells of a split; this view has conditions only"
        raise ModelError(msg)
    if view.dataset.expression is None:
        msg = f"data set {view.dataset.name!r} holds differences only; pre-training needs expression of cells"
        raise ModelError(msg)
    rng = np.random.default_rng(seed_sequence(seed, "cells"))
    n = len(view)
    share = np.zeros(n, dtype=np.bool_)
    if n > 1:
        # By name, so that the order of conditions does not matter.
        order = np.argsort(view.conditions.index.to_numpy().astype(str), kind="stable")
        share[order[rng.choice(n, size=max(1, round(config.held_out * n)), replace=False)]] = True
        if share.all():
            share[order[0]] = False
    kept = view.subset(~share).fit_rows
    assert kept is not None  # noqa: S101 - the view has cells
    fitted = np.flatnonzero(kept)
    held = np.flatnonzero(view.fit_rows & ~kept & ~view.dataset.is_control)
    return _sample(fitted, config.max_cells, rng), _sample(held, _VALIDATION_CELLS, rng)


def _sample(rows: IntArray, most: int | None, rng: np.random.Generator) -> IntArray:
    if most is None or len(rows) <= most:
        return rows
    return np.sort(rng.choice(rows, size=most, replace=False))


def _moments(view: TrainView, rows: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return (mean, variance), each float64 [G], of log1p expression over some rows, read in blocks."""
    first, second = np.zeros(len(view.genes)), np.zeros(len(view.genes))
    for block in row_blocks(len(rows), _BLOCK):
        x = view.expression(rows[block]).astype(np.float64)
        first += x.sum(axis=0)
        second += np.square(x).sum(axis=0)
    mean = first / len(rows)
    return mean, np.maximum(second / len(rows) - mean**2, 0.0)


# ---- the artifact ----------------------------------------------------------------------------------------


def save_encoder(pretrained: PretrainedEncoder, folder: Path) -> None:
    """Write ``encoder.safetensors`` and ``encoder.json`` into a folder.

    Raises
    ------
    ModelError
        If it has no split: such an encoder could be used on a split whose test cells it was trained on.
    """
    if pretrained.split_hash is None:
        msg = "an encoder is saved with the split whose train rows it saw; pre-train it with a split hash"
        raise ModelError(msg)
    write_atomic(folder / ENCODER_FILE, save(state_arrays(pretrained.encoder)))
    write_json(
        folder / ENCODER_META_FILE,
        {
            "schema_version": ENCODER_SCHEMA_VERSION,
            "split_hash": pretrained.split_hash,
            "genes_sha256": genes_digest(pretrained.genes),
            "n_genes": len(pretrained.genes),
            "objective": pretrained.config.objective,
            "config": pretrained.config.model_dump(mode="json"),
            "seed": pretrained.seed,
            "training": pretrained.training,
        },
    )


def load_encoder(folder: Path | str, *, split_hash: str | None, genes: StrArray) -> PretrainedEncoder:
    """Read an encoder for use on one split.

    Parameters
    ----------
    folder
        Where `save_encoder` wrote it.
    split_hash
        The split on which it is to be used; None only if the caller has compared it already.
    genes
        Gene ids [G] of the expression that it will be given, in order.

    Raises
    ------
    ModelError
        If it is missing or damaged, was trained on another split, or takes other genes as input.
    """
    folder = Path(folder)
    meta = read_json(folder / ENCODER_META_FILE, ModelError)
    try:
        trained_on, digest, n_genes = str(meta["split_hash"]), meta["genes_sha256"], meta["n_genes"]
        config = parse(PretrainConfig, meta["config"], f"config of {folder / ENCODER_META_FILE}")
        seed, training = int(meta["seed"]), dict(meta["training"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        msg = f"{folder / ENCODER_META_FILE} does not describe an encoder ({error}); pre-train it again"
        raise ModelError(msg) from error
    if split_hash is not None and trained_on != split_hash:
        msg = (
            f"encoder {folder} was pre-trained on the train rows of split {trained_on[:12]} and must not be used "
            f"with split {split_hash[:12]}; pre-train one with `perturbfm pretrain --split {split_hash[:12]}`"
        )
        raise ModelError(msg)
    if digest != genes_digest(genes):
        msg = (
            f"encoder {folder} reads {n_genes} genes that are not the {len(genes)} of this data, or in another "
            "order; pre-train one on this data"
        )
        raise ModelError(msg)
    try:
        encoder = encoder_from_state(config.encoder, load_file(folder / ENCODER_FILE))
    except (OSError, SafetensorError, ModelError) as error:
        msg = f"{folder / ENCODER_FILE} is missing or damaged ({error}); pre-train it again"
        raise ModelError(msg) from error
    return PretrainedEncoder(encoder.eval(), genes, config, seed, trained_on, training)
