"""Networks of one model: specification, cross-fitting on inner folds, final fits, and weights as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbfm_core.graphs.side_info import EncoderFolder
from perturbfm_core.models.perturbfm.encoder.module import (
    Encoder,
    EncoderConfig,
    encoder_from_state,
    highly_variable,
    new_encoder,
    state_arrays,
)
from perturbfm_core.models.perturbfm.encoder.pretraining import load_encoder
from perturbfm_core.models.perturbfm.network.featurizer import FIRST_ID, Featurizer
from perturbfm_core.models.perturbfm.network.fitting import NetworkFitter, added_by
from perturbfm_core.models.perturbfm.network.gate import TrainingRows, without_gain
from perturbfm_core.models.perturbfm.network.inputs import Inputs
from perturbfm_core.models.perturbfm.network.module import NetworkSpec, PerturbationNetwork
from perturbfm_core.models.perturbfm.network.tensors import TensorSource
from perturbfm_core.models.perturbfm.params import PerturbFMParams
from perturbfm_core.progress import OnEpoch
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import TrainView
from perturbfm_core.training.determinism import derived_seed

_MIN_EPOCHS = 10
_FOLDS_TO_GAIN = 2


class Networks:
    """The networks of one model.

    Parameters
    ----------
    params, version
        Options, and version 0 to 3.
    """

    def __init__(self, params: PerturbFMParams, version: int) -> None:
        self.params, self.version = params, version
        self.members: list[PerturbationNetwork] = []
        self.spec: NetworkSpec | None = None
        self._encoder: EncoderConfig | None = None
        self._fitter: NetworkFitter | None = None

    # ---- fitting ---------------------------------------------------------------------------------------

    def prepare(
        self,
        view: TrainView,
        featurizer: Featurizer,
        data: TrainingRows,
        encoder: EncoderFolder | None,
        *,
        cell_encoder: bool,
        on_epoch: OnEpoch | None = None,
        checkpoints: Path | None = None,
    ) -> TrainingRows:
        """Set the architecture of the networks; return the training rows on the training device.

        Parameters
        ----------
        view, featurizer, data
            Train conditions, their featurizer, and the training rows.
        encoder
            A pre-trained cell encoder, None without.
        cell_encoder
            Whether the control state is encoded by a cell encoder even if none is pre-trained.
        on_epoch, checkpoints
            See `Model`.
        """
        inputs = data.source.inputs
        self.spec = _specify(self.params, self.version, featurizer, inputs, len(view.genes))
        nodes = [featurizer.describe([str(g) for g in graph.genes]) for graph in featurizer.graphs]
        maker = self._encoder_maker(view, encoder, cell_encoder)
        self._fitter = NetworkFitter(self.params, self.spec, nodes, maker, on_epoch, checkpoints)
        return replace(data, source=TensorSource(inputs, featurizer.scale, self._fitter.device))

    @property
    def fitter(self) -> NetworkFitter:
        """Return the trainer of the networks."""
        if self._fitter is None:
            msg = "networks are prepared before they are trained"
            raise RuntimeError(msg)
        return self._fitter

    def cross_fit(
        self, data: TrainingRows, condition: IntArray, seed: int
    ) -> tuple[FloatArray, list[dict[str, Any]], IntArray | None]:
        """Train one network per inner fold, with early stopping on the next fold.

        Where the gate may stay shut, it does after two folds neither of which gains, and the others are not trained.

        Parameters
        ----------
        data
            The training rows [m].
        condition
            int64 [m], the condition of each row; rows of one condition are never divided between training and
            evaluation.
        seed
            Seed of all trainings.

        Returns
        -------
        tuple
            (float32 [2, m, G], corrections of each row by a network that was not trained or stopped on the
            row's fold; the record of each training; int64, the rows of the folds that were enough to decide, None for
            all).
        """
        added = np.zeros((2, *data.truth.shape), dtype=np.float32)
        records: list[dict[str, Any]] = []
        seen: list[IntArray] = []
        folds = [int(j) for j in np.unique(data.fold) if j >= 0]
        for i, j in enumerate(folds if len(folds) >= 3 else []):
            here, stopping, rest = _split_rows(condition, data.fold, j, folds[(i + 1) % len(folds)])
            if not len(rest) or not len(stopping):
                continue
            network, record = self.fitter.train(
                data, rest, derived_seed(seed, "fold", j), f"fold {j + 1}", stop_on=(data, stopping)
            )
            added[:, here] = added_by(network, data.source, here)
            records.append(record.model_dump(mode="json", exclude={"seconds"}))
            seen.append(here)
            if self.params.gate == "auto" and len(seen) == _FOLDS_TO_GAIN and without_gain(data, added, seen):
                return added, records, np.sort(np.concatenate(seen))
        return added, records, None

    def fit(
        self, data: TrainingRows, seed: int, stop_on: TrainingRows | None, epochs: int | None
    ) -> list[dict[str, Any]]:
        """Train the members on all rows; return their training records.

        Parameters
        ----------
        data
            The training rows [m].
        seed
            Seed of all members.
        stop_on
            Rows for early stopping, None without.
        epochs
            Number of epochs without `stop_on`, of which at least 10 are run; None for that of the options.
        """
        stopping = None if stop_on is None else (stop_on, np.arange(len(stop_on.truth)))
        limit = None if stopping is not None or epochs is None else max(epochs, _MIN_EPOCHS)
        records = []
        for member in range(self.params.ensemble_size):
            rows: IntArray = np.arange(len(data.truth))
            if self.params.ensemble_size > 1:
                rows = _bag(data.groups, derived_seed(seed, "bag", member))
            network, record = self.fitter.train(
                data,
                rows,
                derived_seed(seed, "member", member),
                f"member {member + 1}",
                stop_on=stopping,
                epochs=limit,
            )
            self.members.append(network.to("cpu"))
            records.append(record.model_dump(mode="json", exclude={"seconds"}))
        return records

    def source(self, inputs: Inputs, scale: FloatArray) -> TensorSource:
        """Return inputs as tensors on the training device."""
        return TensorSource(inputs, scale, self.fitter.device)

    def _encoder_maker(
        self, view: TrainView, folder: EncoderFolder | None, cell_encoder: bool
    ) -> Callable[[], Encoder] | None:
        """Return a function that makes the cell encoder, pre-trained or new, or None without encoder."""
        p = self.params
        if folder is not None and p.basal and view.control is not None:
            found = load_encoder(folder.path, split_hash=None, genes=view.genes)
            config, state = found.config.encoder, state_arrays(found.encoder)
            self._encoder = config
            return lambda: encoder_from_state(config, {k: v.clone() for k, v in state.items()})
        if not cell_encoder or view.control is None or not p.basal:
            return None
        config = EncoderConfig(
            kind="set-transformer",
            dim=p.hidden_dim,
            n_heads=p.n_heads,
            n_layers=p.n_layers,
            dropout=p.dropout,
            hvg_count=p.hvg_count,
        )
        level = view.control + view.delta
        columns = highly_variable(level.mean(axis=0), level.var(axis=0), p.hvg_count)
        center, scale = level[:, columns].mean(axis=0), level[:, columns].std(axis=0) + 1e-3
        self._encoder = config
        return lambda: new_encoder(config, columns, center, scale)

    # ---- predicting ------------------------------------------------------------------------------------

    def added(self, inputs: Inputs, scale: FloatArray, g: tuple[float, float]) -> FloatArray:
        """Return float32 [members, n, G], the correction of each network to the core, in log1p units.

        Parameters
        ----------
        inputs
            Conditions [n] as arrays.
        scale
            float32 [channels], factor on each channel.
        g
            Gate: factors on the parts through the latent state and through the channels.
        """
        source = TensorSource(inputs, scale)
        factor, every = np.asarray(g, dtype=np.float32), np.arange(len(source))
        return np.stack([np.einsum("p,prg->rg", factor, added_by(n, source, every)) for n in self.members])

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the weights under prefixed names."""
        return {
            f"{prefix}{i}.{k}": v.numpy()
            for i, network in enumerate(self.members)
            for k, v in state_arrays(network).items()
        }

    def meta(self) -> dict[str, Any]:
        """Return the architecture of the networks."""
        return {
            "members": len(self.members),
            "spec": None if self.spec is None else vars(self.spec),
            "encoder": None if self._encoder is None else self._encoder.model_dump(mode="json"),
        }

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state.
        """
        self.spec = NetworkSpec(**{**meta["spec"], "nodes": tuple(meta["spec"]["nodes"])})
        self._encoder = None if meta["encoder"] is None else EncoderConfig(**meta["encoder"])
        self.members = []
        for i in range(int(meta["members"])):
            head = f"{prefix}{i}."
            state = {
                k[len(head) :]: torch.from_numpy(np.array(v)) for k, v in arrays.items() if k.startswith(head)
            }
            self.members.append(_restored(self.spec, state, self._encoder))


def rows_of(inputs: Inputs, scale: FloatArray, **fields: Any) -> TrainingRows:
    """Return training rows of some inputs.

    Parameters
    ----------
    inputs
        Conditions [m] as arrays.
    scale
        float32 [channels], factor on each channel.
    **fields
        The other fields of `TrainingRows`.
    """
    return TrainingRows(source=TensorSource(inputs, scale), **fields)


def _specify(
    params: PerturbFMParams, version: int, featurizer: Featurizer, inputs: Inputs, genes: int
) -> NetworkSpec:
    p = params
    return NetworkSpec(
        version=version,
        genes=genes,
        rank=min(p.rank, genes),
        dim=p.hidden_dim,
        layers=p.n_layers,
        dropout=p.dropout,
        ids=FIRST_ID + len(featurizer.labels),
        features=inputs.features.shape[2],
        basal=inputs.basal.shape[1],
        context=inputs.context.shape[1],
        graphs=len(featurizer.graphs),
        steps=p.diffusion_steps,
        nodes=tuple(len(g.genes) for g in featurizer.graphs),
        node_features=inputs.features.shape[2],
        channels=featurizer.n_channels,
        bases=p.num_bases,
        gating=p.gating_mode if p.gating else "none",
        contextual=p.contextual_operator,
        perturbation=p.perturbation,
    )


def _restored(
    spec: NetworkSpec, state: dict[str, torch.Tensor], config: EncoderConfig | None
) -> PerturbationNetwork:
    """Return a network with saved weights."""
    cell = None
    if config is not None:
        own = {k[len("encoder.") :]: v for k, v in state.items() if k.startswith("encoder.")}
        cell = encoder_from_state(config, own)
    nodes = [state[f"graphs.features{i}"] for i in range(spec.graphs)] if spec.version >= 1 else []
    network = PerturbationNetwork(spec, state["U"], nodes, cell)
    network.load_state_dict(state)
    return network.eval()


def _split_rows(
    condition: IntArray, fold: IntArray, j: int, stop: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the rows of fold `j`, those for early stopping, and those to train on.

    Rows of one condition are in one of the three only.
    """
    here = np.flatnonzero(fold == j)
    mine = np.isin(condition, condition[here])
    stopping = np.flatnonzero((fold == stop) & ~mine)
    rest = np.flatnonzero((fold != j) & (fold != stop) & ~mine & ~np.isin(condition, condition[stopping]))
    return here, stopping, rest


def _bag(groups: list[str], seed: int) -> IntArray:
    """Return positions of the rows of units that are drawn with replacement."""
    names, code = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(0, len(names), size=len(names))
    return np.concatenate([np.flatnonzero(code == u) for u in drawn])
