"""Training of the network on out-of-fold residuals of the core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbfm_core.models.perturbfm.encoder.module import Encoder
from perturbfm_core.models.perturbfm.network.gate import TrainingRows
from perturbfm_core.models.perturbfm.network.module import NetworkSpec, PerturbationNetwork
from perturbfm_core.models.perturbfm.network.tensors import TensorSource
from perturbfm_core.models.perturbfm.params import PerturbFMParams
from perturbfm_core.progress import OnEpoch
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.training.checkpoints import checkpoint_at
from perturbfm_core.training.determinism import derived_seed, deterministic
from perturbfm_core.training.device import resolve_device
from perturbfm_core.training.loop import LoopConfig, train
from perturbfm_core.training.losses import (
    direction_loss,
    direction_target,
    distance_loss,
    noise_weighted_mse,
    noise_weights,
    pair_distances,
    signal_variance,
)
from perturbfm_core.training.record import TrainingRecord

FULL_BATCH = 1024
# Names of gates, trusts and mixing weights: few numbers, trained with a larger learning rate (see `_groups`).
_FAST = ("trust", "steps", "gate", "alpha", "gene_gate", "channel_gate")
_FAST_FACTOR = 10.0
_PREDICT_ROWS = 1024
_CHANNEL_RIDGE = 1e-2


class NetworkFitter:
    """Trains networks of one configuration.

    Parameters
    ----------
    params, spec
        Options and sizes.
    nodes
        Per graph float32 [nodes, F], features of its nodes.
    new_cell_encoder
        Function that makes the cell encoder, None without one.
    on_epoch, checkpoints
        See `Model`.
    """

    def __init__(
        self,
        params: PerturbFMParams,
        spec: NetworkSpec,
        nodes: Sequence[FloatArray],
        new_cell_encoder: Callable[[], Encoder] | None,
        on_epoch: OnEpoch | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        self.params, self.spec = params, spec
        self.nodes = [torch.from_numpy(np.ascontiguousarray(n, dtype=np.float32)) for n in nodes]
        self.new_cell_encoder = new_cell_encoder
        self.on_epoch, self.checkpoints = on_epoch, checkpoints
        self.device = resolve_device(params.device)

    def new(self, components: FloatArray, seed: int) -> PerturbationNetwork:
        """Return an untrained network with initial U = `components` [G, r], reproducible from the seed."""
        with deterministic(seed):
            encoder = None if self.new_cell_encoder is None else self.new_cell_encoder()
            network = PerturbationNetwork(
                self.spec, torch.from_numpy(np.ascontiguousarray(components)), self.nodes, encoder
            )
        if encoder is not None and self.params.freeze_encoder:
            encoder.requires_grad_(False)
        return network

    def train(
        self,
        data: TrainingRows,
        rows: IntArray,
        seed: int,
        phase: str,
        *,
        stop_on: tuple[TrainingRows, IntArray] | None = None,
        epochs: int | None = None,
    ) -> tuple[PerturbationNetwork, TrainingRecord]:
        """Train on some rows, with early stopping on others if given.

        Parameters
        ----------
        data
            Training rows [m].
        rows
            int64, positions of the rows to train on; a row may occur several times.
        seed
            Seed of initial weights, drop-out and row order.
        phase
            What is being trained, for reports; its words name the checkpoint folder.
        stop_on
            Rows whose loss decides when to stop: training rows and positions in them.
        epochs
            Number of epochs (default: that of the options).

        Returns
        -------
        tuple
            (the network, with the kept weights; the record of the training).
        """
        p = self.params
        components = scaled_components(data.truth[rows], p.rank, self.spec.rank)
        network = self.new(components, derived_seed(seed, "network"))
        if self.spec.channels:
            network.start_channels(torch.from_numpy(_channel_start(data, rows)))
        loss = self._loss(data, rows)
        validate = None
        if stop_on is not None and len(stop_on[1]):
            other = self._loss(stop_on[0], stop_on[1], like=(data, rows))
            every = torch.arange(len(stop_on[1]), device=self.device)

            def validate(module: torch.nn.Module) -> float:
                with torch.no_grad():
                    return -float(other(module, every)["loss"])

        config = LoopConfig(
            epochs=epochs or p.epochs,
            horizon=p.epochs,
            lr=p.lr,
            weight_decay=p.weight_decay,
            batch_size=self._batch_size(len(rows)),
            ema_decay=p.ema_decay,
            patience=p.patience,
            # Products of this size gain nothing from bf16: float32 was faster on every network that was measured.
            precision="fp32" if p.precision == "auto" else p.precision,
            compile=p.compile,
        )
        record = train(
            network,
            loss,
            len(rows),
            config,
            seed=derived_seed(seed, "loop"),
            device=self.device,
            validate=validate,
            parameter_groups=self._groups(network),
            on_epoch=self.on_epoch,
            checkpoint=checkpoint_at(self.checkpoints, *phase.split(" ")),
            phase=phase,
        )
        return network, record

    def _batch_size(self, n: int) -> int | None:
        """Return conditions per step, None for all; channels of many conditions would not fit in memory."""
        return self.params.batch_size or (None if n <= FULL_BATCH else FULL_BATCH)

    def _groups(self, network: PerturbationNetwork) -> list[dict[str, Any]]:
        """Return parameter groups; gates and trusts, which are few, learn faster and without weight decay."""
        slow: list[torch.nn.Parameter] = []
        fast: list[torch.nn.Parameter] = []
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                (fast if any(part.startswith(_FAST) for part in name.split(".")) else slow).append(parameter)
        groups: list[dict[str, Any]] = [{"params": slow}]
        if fast:
            groups.append({"params": fast, "lr": self.params.lr * _FAST_FACTOR, "weight_decay": 0.0})
        return groups

    def _loss(
        self, data: TrainingRows, rows: IntArray, like: tuple[TrainingRows, IntArray] | None = None
    ) -> Callable[[Any, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the training loss on some rows.

        Centre, noise weights' tau and error scale are those of the rows of `like` (default: of the rows
        themselves).
        """
        p, device = self.params, self.device
        reference = (data, rows) if like is None else like
        y_ref = torch.from_numpy(reference[0].truth[reference[1]])
        s2_ref = torch.from_numpy(reference[0].s2[reference[1]])
        tau = signal_variance(y_ref, s2_ref)
        y, s2 = torch.from_numpy(data.truth[rows]), torch.from_numpy(data.s2[rows])
        multi = torch.from_numpy(data.source.inputs.multi[rows])
        weights = noise_weights(s2, tau, 1.0 + (p.combo_weight - 1.0) * multi)
        center = y_ref.mean(dim=0)
        # Weighted variance of the reference: the scaled error is about 1 for a model that predicts the mean.
        scale = (noise_weights(s2_ref, tau) * (y_ref - center).square()).mean().clamp_min(1e-12)
        target = direction_target(y, s2)
        # The target is centred on the reference, so that validation rows are compared on the same origin.
        target = type(target)(center, *_unit_and_rest(y, s2, center, target.offset))
        squared = pair_distances(y, s2) if p.distance_weight else None
        y, weights = y.to(device), weights.to(device)
        core = torch.from_numpy(data.core[rows]).to(device)
        target = type(target)(
            *(x.to(device) for x in (target.center, target.unit, target.offset, target.reliability))
        )
        index = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        source = data.source
        kept = source.batch(np.asarray(rows)) if self._batch_size(len(rows)) is None else None

        def loss(module: Any, at: torch.Tensor) -> dict[str, torch.Tensor]:
            whole = kept is not None and len(at) == len(index)
            # The losses are means over rows, so a full batch can be used in its stored order.
            at = torch.arange(len(index), device=device) if whole else at
            batch = kept if whole and kept is not None else source.batch(index[at.cpu()].numpy())
            latent, local = module(batch)
            mu = core[at] + latent + local
            mse = noise_weighted_mse(mu, y[at], weights[at]) / scale
            parts = {"mse": mse, "loss": mse}
            if p.direction_weight:
                parts["direction"] = direction_loss(mu, target, at)
                parts["loss"] = parts["loss"] + p.direction_weight * parts["direction"]
            if p.distance_weight and squared is not None:
                parts["distance"] = distance_loss(mu, squared.to(device), at)
                parts["loss"] = parts["loss"] + p.distance_weight * parts["distance"]
            return parts

        return loss


def added_by(network: PerturbationNetwork, source: TensorSource, rows: IntArray) -> FloatArray:
    """Return float32 [2, rows, G], the corrections of a network through its latent state and its channels.

    Parameters
    ----------
    network
        A trained network; it is set to evaluation mode.
    source
        Inputs [m] as tensors.
    rows
        int64, positions of the rows to predict.
    """
    network.eval()
    blocks = np.array_split(rows, max(1, -(-len(rows) // _PREDICT_ROWS)))
    with torch.no_grad():
        out = [np.stack([x.float().cpu().numpy() for x in network(source.batch(b))]) for b in blocks]
    return np.concatenate(out, axis=1)


def _channel_start(data: TrainingRows, rows: IntArray) -> FloatArray:
    """Return float32 [1 or 3, F], ridge coefficients of the residual on the channels, common to all rows.

    The second and third rows are those of the channels times control expression and its square, where there
    is a control state. So few numbers are best estimated in closed form; training then makes them depend on
    the condition.
    """
    state = data.source.inputs.state
    k = len(data.source.scale) * (1 if state is None else 3)
    gram, along = np.zeros((k, k)), np.zeros(k)
    for block in np.array_split(rows, max(1, -(-len(rows) // 64))):
        phi = data.source.channels(block)
        if state is not None:
            phi = np.concatenate([phi, *(phi * state[block][:, [m]] for m in range(2))], axis=1)
        target = data.truth[block] - data.core[block]
        # Normal equations summed over rows and genes, with phi [b, k, G] and target [b, G].
        gram += np.matmul(phi, phi.transpose(0, 2, 1)).sum(axis=0)
        along += np.matmul(phi, target[:, :, None])[:, :, 0].sum(axis=0)
    ridge = _CHANNEL_RIDGE * max(float(np.trace(gram)) / max(k, 1), 1e-12)
    found = np.linalg.solve(gram + ridge * np.eye(k), along)
    return found.astype(np.float32).reshape(-1, len(data.source.scale))


def _unit_and_rest(
    y: torch.Tensor, s2: torch.Tensor, center: torch.Tensor, offset: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return unit vectors [n, G], offset and reliability [n] of deltas centred on another set's mean."""
    centred = y - center
    norm = torch.linalg.vector_norm(centred, dim=1)
    tiny = torch.finfo(y.dtype).tiny
    reliability = ((norm.square() - s2.sum(dim=1)) / norm.square().clamp_min(tiny)).clamp(0.0, 1.0)
    return centred / (norm + offset).clamp_min(tiny)[:, None], offset, reliability


def scaled_components(truth: FloatArray, rank: int, width: int) -> FloatArray:
    """Return float32 [G, width], the leading principal axes of the rows, scaled by their standard deviation.

    The standard deviation is that of the scores on each axis. Columns beyond the rank of the data are small
    random vectors.

    Parameters
    ----------
    truth
        float32 [n, G], deltas in log1p units.
    rank
        Maximum number of components.
    width
        Number of columns.
    """
    centred = truth.astype(np.float64) - truth.mean(axis=0)
    # Eigenvectors of the [n, n] Gram matrix give the axes without a [G, G] matrix: axis = X' v /
    # sqrt(lambda), times the standard deviation sqrt(lambda / n) of its scores.
    gram = centred @ centred.T
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(-values)[: min(rank, width)]
    keep = order[values[order] > 1e-10 * max(float(values.max()), 1e-300)]
    out = np.random.default_rng(0).normal(size=(truth.shape[1], width)) * (
        1e-3 * max(float(centred.std()), 1e-6)
    )
    if len(keep):
        axes = centred.T @ vectors[:, keep] / np.sqrt(len(truth))
        # The sign of an eigenvector is arbitrary: make the entry of largest magnitude positive.
        signs = np.sign(axes[np.argmax(np.abs(axes), axis=0), np.arange(len(keep))])
        out[:, : len(keep)] = axes * np.where(signs == 0, 1.0, signs)
    return out.astype(np.float32)
