"""PerturbFM v0 to v3: fitting on nested inner folds, prediction, and the registered model names.

Importing this module does not import torch: the methods that need networks import them.

This module is longer than 400 lines because the order of a fit, from inner folds to gate and variance, is one train of thought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from perturbfm_core.config import Frozen
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.graphs.coexpression import train_coexpression
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.side_info import BORROWED, Needs
from perturbfm_core.graphs.spectral import kept_spectral_features
from perturbfm_core.models.base import MODELS, Model
from perturbfm_core.models.perturbfm.core.direct_effect import Direct
from perturbfm_core.models.perturbfm.core.posterior import SetProcessPosterior
from perturbfm_core.models.perturbfm.core.stack import BASELINES, Core, folds_of
from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.models.perturbfm.network.featurizer import FIRST_ID, Featurizer
from perturbfm_core.models.perturbfm.network.gate import (
    CLOSED,
    MIN_GROUPS,
    GateDecision,
    TrainingRows,
    decide,
)
from perturbfm_core.models.perturbfm.network.inputs import join
from perturbfm_core.models.perturbfm.params import PerturbFMParams
from perturbfm_core.models.perturbfm.search_space import SEARCH_SPACE, effective
from perturbfm_core.models.perturbfm.variance.predictive import PredictiveVariance
from perturbfm_core.models.scale import USUAL, Scale, some_rows
from perturbfm_core.models.search import SearchDimension, SearchSpace
from perturbfm_core.models.similarity import ConditionProcess
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.residuals import out_of_fold
from perturbfm_core.splits.split import units_of
from perturbfm_core.splits.view import Query, TrainView
from perturbfm_core.store.run_record import Family

if TYPE_CHECKING:
    from perturbfm_core.models.perturbfm.network.members import Networks

_MIN_VALIDATION = 10
_UNFITTED = GateDecision(CLOSED, None, None, 0, "not fitted")


@dataclass(frozen=True, eq=False)
class _Held:
    """Rows held out by inner folds: the training rows, None without any, and the condition of each row."""

    rows: TrainingRows | None
    condition: IntArray


class PerturbFM(Model):
    """The model shared by all versions: a core, and a network that corrects it where inner folds gain.

    The core is a Gaussian process over interventions, stacked with baselines. Subclasses set the version. Up to 1,500 train conditions the fit is exact; beyond that inducing conditions stand for all in the kernel of the core,
    its options are chosen on some conditions, and weights, gate, networks and variance come from 2,000 held-out conditions
    (see `perturbfm_core.models.scale.Scale`).

    Parameters
    ----------
    params
        Options (see `PerturbFMParams`).
    """

    family: ClassVar[Family] = "learned"
    version: ClassVar[int] = 0
    direct: ClassVar[Direct] = "none"
    cell_encoder: ClassVar[bool] = False
    search_space: ClassVar[SearchSpace] = SEARCH_SPACE
    scale: Scale = USUAL
    """Sizes beyond which the fit approximates; the same for every fit, but where a test says otherwise."""

    class Params(PerturbFMParams):
        """Options of a PerturbFM model."""

    def __init__(self, params: Frozen | None = None) -> None:
        super().__init__(params)
        self._forget()

    def _forget(self) -> None:
        """Reset to the state before a fit."""
        self.core: Core | None = None
        self.featurizer: Featurizer | None = None
        self.networks: Networks | None = None
        self.gate = _UNFITTED
        self.variance: PredictiveVariance | None = None
        self.oof = None
        self.training = {}
        self._labels: dict[str, int] = {}
        self._center: FloatArray = np.zeros(0, dtype=np.float32)
        self._s2: FloatArray = np.zeros(0, dtype=np.float32)
        self._flat: FloatArray = np.zeros(0, dtype=np.float32)

    def searchable(self) -> dict[str, SearchDimension]:
        """Return the search dimensions that have an effect in this version and configuration."""
        return effective(self.version, self.params)

    def needs(self) -> Needs:
        """Return the graphs, gene features, encoder and masks of this configuration."""
        p = self.params
        return Needs(
            graphs=p.adjacency if self.version >= 1 and p.graph and p.perturbation else (),
            features=p.gene_features if p.perturbation else (),
            encoder=p.pretrained_encoder,
            masks=p.pert_masks if p.perturbation else None,
            borrowed=p.borrow if p.perturbation else (),
        )

    # ---- fitting ---------------------------------------------------------------------------------------

    def _fit(self, view: TrainView, seed: int) -> None:
        p = self.params
        self._forget()
        self._center = view.delta.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._s2 = np.nan_to_num(view.s2).mean(axis=0).astype(np.float32)
        graphs = self._graphs(view)
        needs = self.needs()
        names = (*needs.features, *(BORROWED + n for n in needs.borrowed))
        tables = [self.side_info.feature_table(n) for n in names]
        if p.graph_features:
            tables += [
                kept_spectral_features(g, p.graph_features)
                for g in graphs
                # Features of a graph built from train rows would leak held-out rows into the inner folds.
                if g.split_hash is None and g.adjacency.nnz and len(g.genes) >= 3
            ]
        masks = self.side_info.masks if needs.masks is not None else None
        if masks is not None:
            tables = [masks.extend(t) for t in tables]
        if p.core in ("stack", "process") and p.perturbation:
            members = BASELINES if p.core == "stack" else ()
            donors = {n: self.side_info.donor(n) for n in needs.borrowed}
            self.core = Core(members, tables, self.direct, donors, self.scale).fit(view, seed)
            self.training["core"] = self.core.summary()
        parts = sorted(set(interventions(view.conditions).labels))
        self._labels = {x: FIRST_ID + i for i, x in enumerate(parts)}
        self.featurizer = Featurizer(p, self.version, tables, graphs, self._labels, masks=masks).fit(view)
        held = self._held_out(view, tables)
        added = np.zeros_like(view.delta[held.condition])
        if p.gate == "off":
            self.gate = GateDecision(CLOSED, None, None, 0, "switched off")
        elif held.rows is not None:
            added = self._fit_networks(view, held.rows, held.condition, seed)
        self._finish(view, held, added, seed)

    def _graphs(self, view: TrainView) -> list[GeneGraph]:
        """Return the graphs; a graph built from train rows is rebuilt from the view's own rows."""
        out = []
        for name in self.needs().graphs:
            graph = self.side_info.graph(name)
            if graph.split_hash is not None and view.fit_rows is not None:
                graph = train_coexpression(view, graph.split_hash, name=name)
            out.append(graph)
        return out

    def _plain_core(self, query: Query) -> FloatArray:
        """Return float32 [q, G], the train mean, or zero if the core is switched off."""
        scale = 1.0 if self.params.core != "none" else 0.0
        return np.repeat(scale * self._center[None], len(query), axis=0).astype(np.float32)

    def _held_out(self, view: TrainView, tables: Sequence[GeneFeatures]) -> _Held:
        """Return network inputs and cores of every condition, computed without its own inner fold.

        Without a fitted core, inputs are those of the fit itself.
        """
        units = units_of(view.conditions, view.unit)
        groups = [u[0] if u else str(k) for u, k in zip(units, view.conditions.index, strict=True)]
        featurizer = self._fitted_featurizer()
        if self.core is None:
            large = self.scale.approximates(len(view))
            condition = some_rows(len(view), self.scale.held if large else len(view))
            query = view.subset(np.isin(np.arange(len(view)), condition)).query() if large else view.query()
            core = self._plain_core(query)
            inputs = featurizer.read(query, core)
            fold: IntArray = np.full(len(view), -1, dtype=np.int64)
            for j, (_, held) in enumerate(view.inner):
                fold[held] = j
            fold = fold[condition]
        else:
            condition, fold = folds_of(self.core)
            if not len(condition):
                return _Held(None, condition)
            parts = []
            for part in self.core.folds:
                left = view.subset(part.fit)
                graphs = self._graphs(left)
                of_fold = Featurizer(
                    self.params, self.version, tables, graphs, self._labels, like=featurizer
                ).fit(left)
                parts.append(of_fold.read(view.subset(part.held).query(), part.mean))
            inputs, core = join(parts), np.concatenate([f.mean for f in self.core.folds])
        featurizer.calibrate(inputs)
        from perturbfm_core.models.perturbfm.network.members import rows_of

        rows = rows_of(
            inputs,
            featurizer.scale,
            truth=view.delta[condition],
            core=core,
            s2=np.nan_to_num(view.s2[condition]).astype(np.float32),
            fold=fold,
            groups=[groups[i] for i in condition],
        )
        return _Held(rows, condition)

    def _fit_networks(
        self, view: TrainView, data: TrainingRows, condition: IntArray, seed: int
    ) -> FloatArray:
        """Choose gate and number of epochs on the inner folds, then train on all rows.

        Returns float32 [rows, G], the gated out-of-fold correction of the networks.
        """
        from perturbfm_core.models.perturbfm.network.members import Networks

        p, featurizer = self.params, self._fitted_featurizer()
        crossed: FloatArray = np.zeros((2, len(data.truth)))
        added = np.zeros((2, *data.truth.shape), dtype=np.float32)
        records: list[dict[str, Any]] = []
        networks = Networks(p, self.version)
        data = networks.prepare(
            view,
            featurizer,
            data,
            self.side_info.encoder,
            cell_encoder=self.cell_encoder,
            on_epoch=self.on_epoch,
            checkpoints=self.checkpoints,
        )
        if self.core is None:
            self.gate = GateDecision(CLOSED, None, None, 0, "without a fitted core nothing is held out")
        elif p.gate == "auto" and len(set(data.groups)) < MIN_GROUPS:
            # With too few units the gate stays closed, so that training can be skipped.
            self.gate, crossed = decide(data, added, np.arange(len(data.truth)))
        else:
            added, records, seen = networks.cross_fit(data, condition, seed)
            self.gate, crossed = decide(data, added, np.arange(len(data.truth)), seen)
        if p.gate == "on":
            self.gate = replace(self.gate, g=(1.0, 1.0), reason="switched on")
            crossed = np.ones_like(crossed)
        self.training["inner_folds"] = records
        if any(self.gate.g):
            epochs = [int(r["best_epoch"]) for r in records]
            self.training["networks"] = networks.fit(
                data,
                seed,
                self._validation(view, networks),
                int(np.median(epochs)) if epochs else None,
            )
            self.networks = networks
        return np.asarray(np.einsum("pr,prg->rg", crossed, added, optimize=True), dtype=np.float32)

    def _validation(self, view: TrainView, networks: Networks) -> TrainingRows | None:
        """Return the rows of the split's validation fold for early stopping, None if absent or too small."""
        rest = view.validation
        if rest is None or len(rest) < _MIN_VALIDATION:
            return None
        core, _ = self._core_of(rest.query())
        featurizer = self._fitted_featurizer()
        inputs = featurizer.read(rest.query(), core)
        return TrainingRows(
            source=networks.source(inputs, featurizer.scale),
            truth=rest.delta,
            core=core,
            s2=np.nan_to_num(rest.s2).astype(np.float32),
            fold=np.zeros(len(rest), dtype=np.int64),
            groups=[],
        )

    def _fitted_featurizer(self) -> Featurizer:
        if self.featurizer is None:
            msg = "the featurizer is fitted before the networks"
            raise RuntimeError(msg)
        return self.featurizer

    # ---- variance --------------------------------------------------------------------------------------

    def _finish(self, view: TrainView, held: _Held, added: FloatArray, seed: int) -> None:
        """Fit the variance on out-of-fold errors and store the out-of-fold predictions."""
        data = held.rows
        if self.core is None or data is None:
            residual = view.delta - self._mean(view.query())[0]
            self._flat = np.maximum((residual.astype(np.float64) ** 2).mean(axis=0), 1e-6).astype(np.float32)
            self.training["variance"] = {"source": "in_sample", "conditions": len(view)}
            self.training["gate"] = self.gate.to_json()
            return
        mean = data.core + added
        process = np.concatenate([f.var for f in self.core.folds])
        self.variance = PredictiveVariance(self.scale)
        var = self.variance.fit(
            view,
            self._graphs(view),
            held.condition,
            mean,
            process,
            data.truth - mean,
            data.s2,
            data.fold,
            np.stack([f.fit[held.condition] for f in self.core.folds]),
            seed,
            self.on_epoch,
        )
        parts = []
        for j, fold in enumerate(self.core.folds):
            at = data.fold == j
            known = np.nan_to_num(view.s2[fold.fit]).mean(axis=0)
            parts.append(
                (
                    fold.fit,
                    fold.held,
                    _prediction(mean[at], var[at] + known, process[at]),
                )
            )
        self.oof = out_of_fold(view, parts)
        self.training["variance"] = {
            "source": "out_of_fold",
            "conditions": len(mean),
            "inner_folds": len(view.inner),
            "shrinkage": vars(self.variance.levels.shrinkage),
        }
        self.training["gate"] = self.gate.to_json()

    def _fit_variance(self, view: TrainView, seed: int) -> None:
        """Do nothing: `_fit` learns the variance from the same folds as the mean."""

    # ---- predicting ------------------------------------------------------------------------------------

    def _core_of(self, query: Query) -> tuple[FloatArray, FloatArray]:
        if self.core is None:
            out = self._plain_core(query)
            return out, np.zeros_like(out)
        return self.core.predict(query)

    def _mean(self, query: Query) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return mean, variance of the set process, and variance between networks, each float32 [q, G]."""
        core, process = self._core_of(query)
        spread = np.zeros_like(core)
        if self.networks is None:
            return core, process, spread
        featurizer = self._fitted_featurizer()
        members = self.networks.added(featurizer.read(query, core), featurizer.scale, self.gate.g)
        members[:, interventions(query.conditions).sizes == 0] = 0.0
        if len(members) > 1:
            spread = members.var(axis=0, ddof=1).astype(np.float32)
        return (core + members.mean(axis=0)).astype(np.float32), process, spread

    def _predict(self, query: Query) -> Prediction:
        mean, process, spread = self._mean(query)
        if self.variance is None:
            var = np.broadcast_to(self._flat, mean.shape) + spread
            return Prediction(mean=mean, var=var.astype(np.float32), var_epistemic=spread)
        # Error variance without sampling noise + mean sampling variance of train + variance between networks.
        var = self.variance.predict(query, mean, process) + self._s2 + spread
        return _prediction(mean, var, process + spread)

    def condition_process(self) -> ConditionProcess | None:
        """Return the set process of the core, None without a core."""
        return None if self.core is None else SetProcessPosterior(self.core.process)

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""
        out: dict[str, FloatArray] = {"center": self._center, "s2": self._s2, "flat": self._flat}
        if self.core is not None:
            out.update(self.core.arrays("core"))
        if self.variance is not None:
            out.update(self.variance.arrays("variance"))
        if self.networks is not None:
            out.update(self._fitted_featurizer().arrays("featurizer"))
            out.update(self.networks.arrays("network"))
        return out

    def meta(self) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        out: dict[str, Any] = {"gate": self.gate.to_json(), "networks": None}
        if self.core is not None:
            out.update(self.core.meta("core"))
        if self.variance is not None:
            out.update(self.variance.meta("variance"))
        if self.networks is not None:
            out.update(self._fitted_featurizer().meta("featurizer"))
            out["networks"] = self.networks.meta()
        return out

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned."""
        # Fits from before the core had this name.
        arrays, meta = ({k.replace("prior.", "core.", 1): v for k, v in d.items()} for d in (arrays, meta))
        self._center, self._s2, self._flat = arrays["center"], arrays["s2"], arrays["flat"]
        self.gate = GateDecision(**{**meta["gate"], "g": tuple(meta["gate"]["g"])})
        if "core.names" in meta:
            self.core = Core((), (), self.direct)
            self.core.restore("core", arrays, meta, self.genes)
        if "variance.entries.level" in arrays:
            self.variance = PredictiveVariance()
            self.variance.restore("variance", arrays, meta, self.genes)
        if meta["networks"] is None:
            return
        from perturbfm_core.models.perturbfm.network.members import Networks

        self.featurizer = Featurizer(self.params, self.version, (), (), {})
        self.featurizer.restore("featurizer", arrays, meta, self.genes)
        self.networks = Networks(self.params, self.version)
        self.networks.restore("network", arrays, meta["networks"])


def _prediction(mean: FloatArray, var: FloatArray, epistemic: FloatArray) -> Prediction:
    """Return the prediction; the epistemic variance is a part of the variance and cannot exceed it."""
    var = var.astype(np.float32)
    return Prediction(mean=mean, var=var, var_epistemic=np.minimum(epistemic, var).astype(np.float32))


@MODELS.register("perturbfm-v0")
class PerturbFMv0(PerturbFM):
    """The core with a learned variance; its network reads control state, context and gene features."""


@MODELS.register("perturbfm-v1")
class PerturbFMv1(PerturbFM):
    """v0 with gene graphs: features for the core, diffusion with a learned trust for the network."""

    version = 1


@MODELS.register("perturbfm-v2")
class PerturbFMv2(PerturbFM):
    """v1 with direct effects on targets in the core, intervention channels and an operator by context in the network."""

    version = 2
    direct = "constant"


@MODELS.register("perturbfm-v3")
class PerturbFMv3(PerturbFM):
    """v2 whose direct effects (core), operator and gene gates (network) depend on the control state."""

    version = 3
    direct = "state"


@MODELS.register("perturbfm-v3a")
class PerturbFMv3a(PerturbFMv3):
    """v3 with a set transformer as encoder of the control state."""

    cell_encoder = True
