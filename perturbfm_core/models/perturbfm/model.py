"""PerturbFM v0 to v3: the fit from nested inner folds, prediction, and the registered names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from perturbfm_core.config import Frozen
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ModelError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.knowledge import Needs
from perturbfm_core.graphs.spectral import spectral_features
from perturbfm_core.models.base import MODELS, Family, Model
from perturbfm_core.models.perturbfm.encoder import (
    Encoder,
    EncoderConfig,
    encoder_from_state,
    highly_variable,
    new_encoder,
    state_arrays,
)
from perturbfm_core.models.perturbfm.fitting import (
    CLOSED,
    GateDecision,
    NetworkFitter,
    TrainingRows,
    added_by,
    decide,
)
from perturbfm_core.models.perturbfm.interventions import interventions, log_top_dose
from perturbfm_core.models.perturbfm.network import NetworkSpec, PerturbationNetwork
from perturbfm_core.models.perturbfm.params import PerturbFMParams
from perturbfm_core.models.perturbfm.pretraining import load_encoder
from perturbfm_core.models.perturbfm.prior import BASELINES, Prior, folds_of
from perturbfm_core.models.perturbfm.process import Direct
from perturbfm_core.models.perturbfm.reading import FIRST_ID, Inputs, Reader, join
from perturbfm_core.models.perturbfm.tensors import TensorSource
from perturbfm_core.models.perturbfm.variance import VarianceModel
from perturbfm_core.models.train_graph import train_coexpression
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.residuals import out_of_fold
from perturbfm_core.splits.split import units_of
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.training.seeding import derived_seed

_MIN_VALIDATION = 10
_MIN_EPOCHS = 10


@dataclass(frozen=True, eq=False)
class _Held:
    """What the inner folds left: the training rows, and the reader that scales their channels."""

    rows: TrainingRows
    condition: IntArray


class PerturbFM(Model):
    """The shared model; subclasses name a version.

    Parameters
    ----------
    params
        Options (see `PerturbFMParams`).
    """

    family: ClassVar[Family] = "perturbfm"
    version: ClassVar[int] = 0
    direct: ClassVar[Direct] = "none"
    cell_encoder: ClassVar[bool] = False

    class Params(PerturbFMParams):
        """Options of a PerturbFM network."""

    def __init__(self, params: Frozen | None = None) -> None:
        super().__init__(params)
        self.prior: Prior | None = None
        self.reader: Reader | None = None
        self.networks: list[PerturbationNetwork] = []
        self.gate = GateDecision(CLOSED, None, None, 0, "not fitted")
        self.variance: VarianceModel | None = None
        self._spec: NetworkSpec | None = None
        self._center: FloatArray = np.zeros(0, dtype=np.float32)
        self._s2: FloatArray = np.zeros(0, dtype=np.float32)
        self._flat: FloatArray = np.zeros(0, dtype=np.float32)

    def needs(self) -> Needs:
        """Return the graphs, gene features and encoder of this configuration."""
        p = self.params
        return Needs(
            graphs=p.adjacency if self.version >= 1 and p.graph else (),
            features=p.gene_features if p.perturbation else (),
            encoder=p.pretrained_encoder,
        )

    # ---- fitting ---------------------------------------------------------------------------------------

    def _fit(self, view: TrainView, seed: int) -> None:
        p = self.params
        self._center = view.delta.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._s2 = np.nan_to_num(view.s2).mean(axis=0).astype(np.float32)
        graphs = self._graphs(view)
        tables = [self.knowledge.feature_table(n) for n in self.needs().features]
        if p.graph_features:
            tables += [
                spectral_features(g, p.graph_features)
                for g in graphs
                if g.adjacency.nnz and len(g.genes) >= 3
            ]
        if p.prior in ("stack", "process") and p.perturbation:
            members = BASELINES if p.prior == "stack" else ()
            self.prior = Prior(members, tables, self.direct).fit(view, seed)
            self.training["prior"] = self.prior.summary()
        parts = sorted(set(interventions(view.conditions, log_top_dose(view.conditions)).labels))
        self._labels = {x: FIRST_ID + i for i, x in enumerate(parts)}
        held = self._held_out(view, tables)
        self.reader = Reader(p, self.version, tables, graphs, self._labels).fit(view)
        added = np.zeros_like(held.rows.truth)
        if p.gate != "off" and len(held.rows.truth):
            added = self._fit_networks(view, held, seed)
        elif p.gate == "off":
            self.gate = GateDecision(CLOSED, None, None, 0, "switched off")
        self._finish(view, held, added, seed)

    def _graphs(self, view: TrainView) -> list[GeneGraph]:
        """Return the graphs; one made from train rows is made again from the view's own."""
        out = []
        for name in self.needs().graphs:
            graph = self.knowledge.graph(name)
            if graph.split_hash is not None and view.fit_rows is not None:
                graph = train_coexpression(view, graph.split_hash, name=name)
            out.append(graph)
        return out

    def _plain_prior(self, query: Query) -> FloatArray:
        """Return float32 [q, G]: the train mean, or nothing."""
        scale = 1.0 if self.params.prior != "none" else 0.0
        return np.repeat(scale * self._center[None], len(query), axis=0).astype(np.float32)

    def _held_out(self, view: TrainView, tables: Sequence[GeneFeatures]) -> _Held:
        """Read every condition as its inner fold's predictors see it; without a fitted prior, as the fit does."""
        units = units_of(view.conditions, view.unit)
        groups = [u[0] if u else str(k) for u, k in zip(units, view.conditions.index, strict=True)]
        if self.prior is None:
            condition: IntArray = np.arange(len(view))
            graphs = self._graphs(view)
            reader = Reader(self.params, self.version, tables, graphs, self._labels).fit(view)
            prior = self._plain_prior(view.query())
            inputs = reader.read(view.query(), prior)
            fold: IntArray = np.full(len(view), -1, dtype=np.int64)
            for j, (_, held) in enumerate(view.inner):
                fold[held] = j
        else:
            condition, fold = folds_of(self.prior)
            if not len(condition):
                empty = np.zeros((0, len(view.genes)), dtype=np.float32)
                return _Held(TrainingRows(_no_source(), empty, empty, empty, fold, []), condition)
            parts = []
            for part in self.prior.folds:
                left = view.subset(part.fit)
                reader = Reader(self.params, self.version, tables, self._graphs(left), self._labels).fit(left)
                parts.append(reader.read(view.subset(part.held).query(), part.mean))
            inputs, prior = join(parts), np.concatenate([f.mean for f in self.prior.folds])
        reader.calibrate(inputs)
        self._channel_scale = reader.scale
        source = TensorSource(inputs, reader.scale)
        rows = TrainingRows(
            source=source,
            truth=view.delta[condition],
            prior=prior,
            s2=np.nan_to_num(view.s2[condition]).astype(np.float32),
            fold=fold,
            groups=[groups[i] for i in condition],
        )
        return _Held(rows, condition)

    def _fit_networks(self, view: TrainView, held: _Held, seed: int) -> FloatArray:
        """Train on the inner folds to set gate and epochs, then on all; return what is added out of fold."""
        p, data = self.params, held.rows
        if self.reader is None:
            msg = "the reader is fitted before the networks"
            raise ModelError(msg)
        self.reader.scale = self._channel_scale
        self._spec = self._specify(view, data.source.inputs)
        nodes = [self.reader.describe([str(g) for g in graph.genes]) for graph in self.reader.graphs]
        fitter = NetworkFitter(p, self._spec, nodes, self._new_encoder(view), self.on_epoch, self.checkpoints)
        data = replace(data, source=TensorSource(data.source.inputs, self._channel_scale, fitter.device))
        added = np.zeros((2, *data.truth.shape), dtype=np.float32)
        crossed: FloatArray = np.zeros((2, len(data.truth)))
        records, epochs = [], []
        folds = [int(j) for j in np.unique(data.fold) if j >= 0]
        if self.prior is not None and len(folds) >= 3:
            for j in folds:
                stop = folds[(folds.index(j) + 1) % len(folds)]
                here, stopping, rest = _split_rows(held.condition, data.fold, j, stop)
                if not len(rest) or not len(stopping):
                    continue
                network, record = fitter.train(
                    data, rest, derived_seed(seed, "fold", j), f"fold {j + 1}", stop_on=(data, stopping)
                )
                added[:, here] = fitter.predict(network, data.source, here)
                epochs.append(record.best_epoch)
                records.append(record.model_dump(mode="json"))
            rows = np.arange(len(data.truth))
            self.gate, crossed = decide(data, added, rows)
        if p.gate == "on":
            self.gate = GateDecision(
                (1.0, 1.0), self.gate.gain, self.gate.standard_error, self.gate.groups, "switched on"
            )
            crossed = np.ones_like(crossed)
        self.training["inner_folds"] = records
        if any(self.gate.g):
            chosen = int(np.median(epochs)) if epochs else None
            self._fit_final(view, data, fitter, seed, None if chosen is None else max(chosen, _MIN_EPOCHS))
        return np.asarray(np.einsum("pr,prg->rg", crossed, added, optimize=True), dtype=np.float32)

    def _fit_final(
        self, view: TrainView, data: TrainingRows, fitter: NetworkFitter, seed: int, epochs: int | None
    ) -> None:
        """Train the networks that predict: on all rows, stopped on the validation fold or after `epochs`."""
        stop_on = None
        validation = view.validation
        if validation is not None and len(validation) >= _MIN_VALIDATION and self.reader is not None:
            prior, _ = self._prior_of(validation.query())
            source = TensorSource(
                self.reader.read(validation.query(), prior), self._channel_scale, fitter.device
            )
            n = len(validation)
            other = TrainingRows(
                source,
                validation.delta,
                prior,
                np.nan_to_num(validation.s2).astype(np.float32),
                np.zeros(n, dtype=np.int64),
                [],
            )
            stop_on = (other, np.arange(n))
        records = []
        for member in range(self.params.ensemble_size):
            rows: IntArray = np.arange(len(data.truth))
            if self.params.ensemble_size > 1:
                rows = _bag(data.groups, derived_seed(seed, "bag", member))
            network, record = fitter.train(
                data,
                rows,
                derived_seed(seed, "member", member),
                f"member {member + 1}",
                stop_on=stop_on,
                epochs=None if stop_on else epochs,
            )
            self.networks.append(network.to("cpu"))
            records.append(record.model_dump(mode="json"))
        self.training["networks"] = records

    def _specify(self, view: TrainView, inputs: Inputs) -> NetworkSpec:
        p, reader = self.params, self.reader
        if reader is None:
            msg = "the reader is fitted before the network is specified"
            raise ModelError(msg)
        return NetworkSpec(
            version=self.version,
            genes=len(view.genes),
            rank=min(p.rank, len(view.genes)),
            dim=p.hidden_dim,
            layers=p.n_layers,
            dropout=p.dropout,
            ids=FIRST_ID + len(self._labels),
            features=inputs.features.shape[2],
            basal=inputs.basal.shape[1],
            context=inputs.context.shape[1],
            graphs=len(reader.graphs),
            steps=p.diffusion_steps,
            nodes=tuple(len(g.genes) for g in reader.graphs),
            node_features=inputs.features.shape[2],
            channels=reader.n_channels,
            bases=p.num_bases,
            gating=p.gating_mode if p.gating else "none",
            contextual=p.contextual_operator,
            perturbation=p.perturbation,
        )

    def _new_encoder(self, view: TrainView) -> Callable[[], Encoder] | None:
        """Return what makes the cell encoder: the pre-trained one, a new one for v3a, or none."""
        p = self.params
        folder = self.knowledge.encoder
        if folder is not None and p.basal:
            found = load_encoder(folder.path, split_hash=None, genes=view.genes)
            config, state = found.config.encoder, state_arrays(found.encoder)
            self._encoder_config = config
            return lambda: encoder_from_state(config, {k: v.clone() for k, v in state.items()})
        if not self.cell_encoder or view.control is None or not p.basal:
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
        self._encoder_config = config
        return lambda: new_encoder(config, columns, center, scale)

    # ---- variance --------------------------------------------------------------------------------------

    def _finish(self, view: TrainView, held: _Held, added: FloatArray, seed: int) -> None:
        """Fit the variance on out-of-fold errors and keep the out-of-fold predictions."""
        data = held.rows
        if self.prior is None or not len(data.truth):
            residual = view.delta - self._mean(view.query())[0]
            self._flat = np.maximum((residual.astype(np.float64) ** 2).mean(axis=0), 1e-6).astype(np.float32)
            self.training["variance"] = {"source": "in_sample", "conditions": len(view)}
            self.training["gate"] = vars(self.gate)
            return
        mean = data.prior + added
        process = np.concatenate([f.var for f in self.prior.folds])
        sizes = interventions(view.conditions.iloc[held.condition]).sizes.astype(np.float64)
        self.variance = VarianceModel()
        var = self.variance.fit(
            mean,
            process,
            sizes,
            data.truth - mean,
            data.s2,
            data.fold,
            derived_seed(seed, "variance"),
            self.on_epoch,
        )
        parts = []
        for j, fold in enumerate(self.prior.folds):
            at = data.fold == j
            known = np.nan_to_num(view.s2[fold.fit]).mean(axis=0)
            parts.append(
                (
                    fold.fit,
                    fold.held,
                    Prediction(mean[at], (var[at] + known).astype(np.float32), var_epistemic=process[at]),
                )
            )
        self.oof = out_of_fold(view, parts)
        self.training["variance"] = {
            "source": "out_of_fold",
            "conditions": len(mean),
            "inner_folds": len(view.inner),
        }
        self.training["gate"] = vars(self.gate)

    def _fit_variance(self, view: TrainView, seed: int) -> None:
        """Nothing: `_fit` learns the variance from the same folds as the mean."""

    # ---- predicting ------------------------------------------------------------------------------------

    def _prior_of(self, query: Query) -> tuple[FloatArray, FloatArray]:
        if self.prior is None:
            out = self._plain_prior(query)
            return out, np.zeros_like(out)
        return self.prior.predict(query)

    def _mean(self, query: Query) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the mean, the set process's variance, and the variance between networks, each float32 [q, G]."""
        prior, process = self._prior_of(query)
        spread = np.zeros_like(prior)
        if not self.networks or self.reader is None or not any(self.gate.g):
            return prior, process, spread
        inputs = self.reader.read(query, prior)
        source = TensorSource(inputs, self._channel_scale)
        g = np.asarray(self.gate.g, dtype=np.float32)
        every = np.arange(len(source))
        members = np.stack([np.einsum("p,prg->rg", g, added_by(n, source, every)) for n in self.networks])
        if len(members) > 1:
            spread = members.var(axis=0, ddof=1).astype(np.float32)
        return (prior + members.mean(axis=0)).astype(np.float32), process, spread

    def _predict(self, query: Query) -> Prediction:
        mean, process, spread = self._mean(query)
        if self.variance is None:
            var = np.broadcast_to(self._flat, mean.shape) + spread
            return Prediction(mean=mean, var=var.astype(np.float32), var_epistemic=spread)
        sizes = interventions(query.conditions).sizes.astype(np.float64)
        var = self.variance.predict(mean, process, sizes) + self._s2 + spread
        return Prediction(mean=mean, var=var.astype(np.float32), var_epistemic=process + spread)

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""
        out: dict[str, FloatArray] = {"center": self._center, "s2": self._s2, "flat": self._flat}
        if self.prior is not None:
            out.update(self.prior.arrays("prior"))
        if self.variance is not None:
            out.update(self.variance.arrays("variance"))
        if self.networks and self.reader is not None:
            out.update(self.reader.arrays("reader"))
            for i, network in enumerate(self.networks):
                out.update({f"network{i}.{k}": v.numpy() for k, v in state_arrays(network).items()})
        return out

    def meta(self) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        out: dict[str, Any] = {"gate": vars(self.gate), "networks": len(self.networks)}
        if self.prior is not None:
            out.update(self.prior.meta("prior"))
        if self.networks and self.reader is not None and self._spec is not None:
            out.update(self.reader.meta("reader"))
            out["spec"] = vars(self._spec)
            config = getattr(self, "_encoder_config", None)
            out["encoder"] = None if config is None else config.model_dump(mode="json")
        return out

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Take back what `arrays` and `meta` returned."""
        self._center, self._s2, self._flat = arrays["center"], arrays["s2"], arrays["flat"]
        self.gate = GateDecision(**{**meta["gate"], "g": tuple(meta["gate"]["g"])})
        if "prior.names" in meta:
            self.prior = Prior((), (), self.direct)
            self.prior.restore("prior", arrays, meta, self.genes)
        if "variance.level" in arrays:
            self.variance = VarianceModel()
            self.variance.restore("variance", arrays)
        if not meta["networks"]:
            return
        self.reader = Reader(self.params, self.version, (), (), {})
        self.reader.restore("reader", arrays, meta, self.genes)
        self._channel_scale = self.reader.scale
        spec = {**meta["spec"], "nodes": tuple(meta["spec"]["nodes"])}
        self._spec = NetworkSpec(**spec)
        for i in range(int(meta["networks"])):
            head = f"network{i}."
            state = {
                k[len(head) :]: torch.from_numpy(np.array(v)) for k, v in arrays.items() if k.startswith(head)
            }
            self.networks.append(_restored(self._spec, state, meta.get("encoder")))


def _restored(
    spec: NetworkSpec, state: dict[str, torch.Tensor], encoder: dict[str, Any] | None
) -> PerturbationNetwork:
    """Return a network with saved weights."""
    cell = None
    if encoder is not None:
        own = {k[len("encoder.") :]: v for k, v in state.items() if k.startswith("encoder.")}
        cell = encoder_from_state(EncoderConfig(**encoder), own)
    nodes = [state[f"graphs.features{i}"] for i in range(spec.graphs)] if spec.version >= 1 else []
    network = PerturbationNetwork(spec, state["U"], nodes, cell)
    network.load_state_dict(state)
    return network.eval()


def _split_rows(
    condition: IntArray, fold: IntArray, j: int, stop: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return the rows of fold `j`, those to stop on, and those to train on; a condition is in one of the three."""
    here = np.flatnonzero(fold == j)
    mine = np.isin(condition, condition[here])
    stopping = np.flatnonzero((fold == stop) & ~mine)
    rest = np.flatnonzero((fold != j) & (fold != stop) & ~mine & ~np.isin(condition, condition[stopping]))
    return here, stopping, rest


def _bag(groups: list[str], seed: int) -> IntArray:
    """Return row positions of units drawn with replacement."""
    names, code = np.unique(np.asarray(groups), return_inverse=True)
    drawn = np.random.default_rng(seed).integers(0, len(names), size=len(names))
    return np.concatenate([np.flatnonzero(code == u) for u in drawn])


def _no_source() -> TensorSource:
    empty = np.zeros((0, 0), dtype=np.float32)
    inputs = Inputs(
        np.zeros((0, 1), dtype=np.int64),
        empty,
        np.zeros((0, 1, 0), dtype=np.float32),
        empty,
        empty,
        [],
        [],
        np.zeros((0, 0, 0), dtype=np.float32),
        None,
        np.zeros(0, dtype=np.float32),
    )
    return TensorSource(inputs, np.zeros(0, dtype=np.float32))


@MODELS.register("perturbfm-v0")
class PerturbFMv0(PerturbFM):
    """Probabilistic delta from control state, context and gene features."""

    name = "perturbfm-v0"


@MODELS.register("perturbfm-v1")
class PerturbFMv1(PerturbFM):
    """v0 with gene graphs, each by its trust."""

    name = "perturbfm-v1"
    version = 1


@MODELS.register("perturbfm-v2")
class PerturbFMv2(PerturbFM):
    """The contextual graph intervention operator: v1 with the intervention itself and its context."""

    name = "perturbfm-v2"
    version = 2
    direct = "constant"


@MODELS.register("perturbfm-v3")
class PerturbFMv3(PerturbFM):
    """v2 whose operator, direct effects and genes depend on the control state."""

    name = "perturbfm-v3"
    version = 3
    direct = "state"


@MODELS.register("perturbfm-v3a")
class PerturbFMv3a(PerturbFMv3):
    """v3 with a set transformer for the control state."""

    name = "perturbfm-v3a"
    cell_encoder = True
