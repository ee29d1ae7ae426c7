"""Featurizer of conditions for the network, fitted on train conditions and applicable to any condition.

This module is longer than 400 lines because all inputs of the network are described, fitted and restored together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.graph import GeneGraph
from perturbfm_core.graphs.masks import PertMasks
from perturbfm_core.models.baselines.dose_response import DoseResponse
from perturbfm_core.models.baselines.effects import CONTEXT_LEVELS, EffectTable, distinct_rows
from perturbfm_core.models.perturbfm.interventions import active_components, interventions, measured_singles
from perturbfm_core.models.perturbfm.network.control_state import ControlStates
from perturbfm_core.models.perturbfm.network.diffusion import spread_over
from perturbfm_core.models.perturbfm.network.inputs import Inputs
from perturbfm_core.models.perturbfm.params import PerturbFMParams
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

PAD, UNKNOWN, FIRST_ID = 0, 1, 2
_CONTEXT_COMPONENTS = 16
_EXPRESSION_COMPONENTS = 16
_INTERVENTION_CHANNELS = 3


class Featurizer:
    """Converts conditions to `Inputs`.

    Parameters
    ----------
    params
        Options of the model.
    version
        0 to 3.
    tables, graphs
        Gene features and graphs, none built from rows outside the view.
    labels
        Number of every perturbation of the whole train view, so that all networks share one embedding table.
    masks
        Which genes perturbations act on, None if perturbations are genes; `tables` already contain the
        perturbations.
    like
        The featurizer of the whole train view; a featurizer of a part of it takes over its widths and
        covariates.
    """

    def __init__(
        self,
        params: PerturbFMParams,
        version: int,
        tables: Sequence[GeneFeatures],
        graphs: Sequence[GeneGraph],
        labels: dict[str, int],
        *,
        masks: PertMasks | None = None,
        like: Featurizer | None = None,
    ) -> None:
        self.params, self.version = params, version
        self._like = like
        self.masks: PertMasks | None = masks if like is None else like.masks
        self.tables = list(tables)
        # Graphs diffuse the perturbation, so they are of no use without it.
        self.graphs = list(graphs) if version >= 1 and params.graph and params.perturbation else []
        self.labels = labels
        self.states = ControlStates(permuted=params.control_state == "permuted")
        self._known: set[str] = set()
        self._response = DoseResponse()
        self._genes: list[str] = []
        self._singles = EffectTable(CONTEXT_LEVELS)
        self._center: FloatArray = np.zeros(0, dtype=np.float32)
        self._expression: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._control: dict[str, FloatArray] = {}
        self._covariates: list[str] = []
        self._known_covariates: set[str] = set()
        # Factor on each channel, float32 [channels].
        self.scale: FloatArray = np.ones(0, dtype=np.float32)
        self._feature_scale: FloatArray = np.ones(0, dtype=np.float32)

    # ---- fitting ---------------------------------------------------------------------------------------

    def fit(self, view: TrainView) -> Featurizer:
        """Learn vocabularies, axes and scales from train conditions."""
        self._genes = [str(g) for g in view.genes]
        self._response = DoseResponse.fit(view)
        self._known = set(interventions(view.conditions, self._response).labels)
        single = measured_singles(view.conditions)
        self._singles = EffectTable(CONTEXT_LEVELS)
        if single.any():
            self._singles.fit(view.conditions[single], view.delta[single])
        self._center = view.delta.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = view.delta - self._center
        k = min(_EXPRESSION_COMPONENTS, *centred.shape)
        # Loadings of the measured genes on the main responses [G, k]: co-regulated genes tend to be similar
        # targets.
        found = principal_components(centred, k) if len(centred) > 1 else None
        self._expression = (
            np.zeros((len(self._genes), 0), dtype=np.float32)
            if found is None
            else (found.axes.T * np.sqrt(found.variance)).astype(np.float32)
        )
        spread = self._expression.std() if self._expression.size else 0.0
        self._expression = self._expression / (spread or 1.0)
        # One scale per table (root mean square), so that all tables enter with the same weight.
        self._feature_scale = np.asarray(
            [float(np.sqrt((t.matrix.astype(np.float64) ** 2).mean())) or 1.0 for t in self.tables],
            dtype=np.float32,
        )
        self._control = _control_axes(view)
        self._covariates = sorted(
            {f"{k}={v}" for c in view.conditions[schema.COVARIATES] for k, v in parse_covariates(c).items()}
        )
        self._known_covariates = set(self._covariates)
        self.states.fit(view)
        if self._like is not None:
            self._widen(self._like)
        return self

    def _widen(self, whole: Featurizer) -> None:
        """Pad with zeros to the widths of the whole train view.

        With fewer conditions or contexts there are fewer components, but networks need inputs of one width.
        """
        self._expression = _filled(self._expression, whole._expression.shape[1], axis=1)
        if "axes" in whole._control:
            own = self._control or {k: np.zeros_like(v) for k, v in whole._control.items()}
            self._control = {**own, "axes": _filled(own["axes"], len(whole._control["axes"]), axis=0)}
        self._covariates = whole._covariates

    def calibrate(self, inputs: Inputs) -> None:
        """Set the scale of the channels, so that each has unit mean square over these rows."""
        sums = [float((d.data.astype(np.float64) ** 2).sum()) for d in inputs.diffused]
        sums += [
            float((inputs.dense[:, i].astype(np.float64) ** 2).sum()) for i in range(inputs.dense.shape[1])
        ]
        size = max(len(inputs) * len(self._genes), 1)
        # Sparse channels are scaled by the mean over their non-zero entries: with the mean over all genes
        # these few entries would become very large and dominate the other channels.
        counts = [max(d.nnz, 1) for d in inputs.diffused] + [size] * inputs.dense.shape[1]
        self.scale = np.asarray(
            [1.0 / np.sqrt(s / n) if s > 0 else 0.0 for s, n in zip(sums, counts, strict=True)],
            dtype=np.float32,
        )

    @property
    def n_channels(self) -> int:
        """Return the number of channels over genes."""
        own = _INTERVENTION_CHANNELS if self.version >= 2 and self.params.perturbation else 0
        return len(self.graphs) * self.params.diffusion_steps + own

    @property
    def feature_width(self) -> int:
        """Return F, the width of all tables and the expression components, each with an indicator column."""
        return int(sum(t.matrix.shape[1] + 1 for t in self.tables) + self._expression.shape[1] + 1)

    def describe(self, genes: Sequence[str]) -> FloatArray:
        """Return float32 [n, F], features of genes.

        Each table, and the expression components, are followed by a column that indicates whether the gene is
        known.
        """
        names = list(genes)
        columns: list[FloatArray] = []
        for table, scale in zip(self.tables, self._feature_scale, strict=True):
            rows, known = table.rows(names)
            columns += [rows / scale, known[:, None].astype(np.float32)]
        position = {g: i for i, g in enumerate(self._genes)}
        at = np.asarray([position.get(g, -1) for g in names], dtype=np.int64)
        known = at >= 0
        own = np.zeros((len(names), self._expression.shape[1]), dtype=np.float32)
        own[known] = self._expression[at[known]]
        if self.masks is not None:
            # A drug has the mean of the expression components of its measured targets.
            targets = np.asarray([position.get(str(g), -1) for g in self.masks.genes], dtype=np.int64)
            mean, some = self.masks.mean(self._expression[targets], targets >= 0)
            row = np.asarray([self.masks.position.get(g, -1) for g in names], dtype=np.int64)
            own[row >= 0], known[row >= 0] = mean[row[row >= 0]], some[row[row >= 0]]
        return np.concatenate([*columns, own, known[:, None].astype(np.float32)], axis=1)

    # ---- reading ---------------------------------------------------------------------------------------

    def read(self, query: Query, core: FloatArray) -> Inputs:
        """Return conditions as network inputs.

        Parameters
        ----------
        query
            Conditions [n].
        core
            float32 [n, G], their prediction by the core, in log1p units.
        """
        parts = interventions(query.conditions, self._response)
        n, owner = len(query), parts.owner
        # Parts of a condition are adjacent, so this is the position of each part within its condition.
        order = np.arange(len(owner)) - np.searchsorted(owner, owner)
        width = int(order.max(initial=0)) + 1
        ids = np.full((n, width), PAD, dtype=np.int64)
        amounts = np.zeros((n, width), dtype=np.float32)
        features = np.zeros((n, width, self.feature_width), dtype=np.float32)
        number = np.asarray(
            [self.labels[x] if x in self._known else UNKNOWN for x in parts.labels], dtype=np.int64
        )
        names, which = np.unique(np.asarray(parts.genes, dtype=np.str_), return_inverse=True)
        ids[owner, order] = number
        amounts[owner, order] = parts.amount * parts.sign
        features[owner, order] = self.describe(names.tolist())[which]
        # [n, names]: signed amount with which each condition acts on each perturbed gene (or, below, on
        # targets).
        signed = sp.csr_array((parts.amount * parts.sign, (owner, which)), shape=(n, len(names)))
        sources = names.tolist()
        if self.masks is not None:
            sources, acts = self.masks.sources(sources)
            signed = sp.csr_array(signed @ acts)
        spread, diffused = spread_over(
            self.graphs, self._genes, sources, signed, self.params.diffusion_steps, self.params.diffusion_top
        )
        basal, context = self._surroundings(query)
        cells, cell_row = None, None
        if query.control is not None:
            cells, cell_row = distinct_rows(query.control)
        return Inputs(
            ids=ids,
            amounts=amounts,
            features=features,
            basal=basal,
            context=context,
            spread=spread,
            diffused=diffused,
            dense=self._intervention(query, core, owner),
            state=self.states.read(query) if self.version >= 3 and self.params.basal else None,
            multi=(parts.sizes > 1).astype(np.float32),
            cells=cells,
            cell_row=cell_row,
        )

    def _intervention(self, query: Query, core: FloatArray, owner: IntArray) -> FloatArray:
        """Return float32 [n, 3, G], the intervention channels.

        They are the centred core; the sum of the known single effects minus the core; and a pair term that
        measures whether these single effects agree. The last two are zero unless all of at least two parts
        are known.
        """
        n, G = len(query), len(self._genes)
        if self.version < 2 or not self.params.perturbation:
            return np.zeros((n, 0, G), dtype=np.float32)
        out = np.zeros((n, _INTERVENTION_CHANNELS, G), dtype=np.float32)
        out[:, 0] = core - self._center
        table, _ = active_components(query.conditions)
        if not any(self._singles.keys):
            return out
        effects, known = self._singles.look_up(table)
        count = np.bincount(owner, weights=known, minlength=n)
        both = (count >= 2) & (count == np.bincount(owner, minlength=n))
        if not both.any():
            return out
        parts = np.arange(len(owner))
        summed = sp.csr_array((np.ones(len(owner), dtype=np.float32), (owner, parts)), shape=(n, len(owner)))
        total, magnitude, squares = summed @ effects, summed @ np.abs(effects), summed @ effects**2
        out[both, 1] = (total - core)[both]
        # (sum a)^2 - sum a^2 is twice the sum over pairs a*b, which is positive where effects agree. Divided
        # by the sum of magnitudes it has the units of a delta; the sign of the sum gives it a direction.
        out[both, 2] = (0.5 * (total**2 - squares) * np.sign(total) / (magnitude + 1e-6))[both]
        return out

    def _surroundings(self, query: Query) -> tuple[FloatArray, FloatArray]:
        """Return float32 ([n, k] components of the control state, [n, .] context: these and covariates)."""
        n = len(query)
        scores = np.zeros((n, 0), dtype=np.float32)
        if query.control is not None and "axes" in self._control:
            scores = ((query.control - self._control["mean"]) @ self._control["axes"].T).astype(np.float32)
        position = {c: i for i, c in enumerate(self._covariates)}
        hot = np.zeros((n, len(position)), dtype=np.float32)
        for i, text in enumerate(query.conditions[schema.COVARIATES].astype(str)):
            for key, value in parse_covariates(text).items():
                if f"{key}={value}" in self._known_covariates:
                    hot[i, position[f"{key}={value}"]] = 1.0
        basal = scores if self.params.basal else scores[:, :0]
        context = np.concatenate([scores, hot], axis=1) if self.params.context else scores[:, :0]
        return basal, context

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        out: dict[str, FloatArray] = {
            f"{prefix}.center": self._center,
            f"{prefix}.expression": self._expression,
            f"{prefix}.scale": self.scale,
            f"{prefix}.feature_scale": self._feature_scale,
            **{f"{prefix}.control.{k}": v for k, v in self._control.items()},
            **self._singles.arrays(f"{prefix}.singles"),
            **self.states.arrays(f"{prefix}.states"),
        }
        for i, table in enumerate(self.tables):
            out[f"{prefix}.table{i}"] = table.matrix
        if self.masks is not None:
            out[f"{prefix}.masks"] = self.masks.mask
        for i, graph in enumerate(self.graphs):
            A = graph.adjacency
            out[f"{prefix}.graph{i}.indptr"] = A.indptr.astype(np.int64)
            out[f"{prefix}.graph{i}.indices"] = A.indices.astype(np.int32)
            out[f"{prefix}.graph{i}.data"] = A.data.astype(np.float32)
        return out

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.labels": self.labels,
            f"{prefix}.known": sorted(self._known),
            f"{prefix}.response": self._response.meta(),
            f"{prefix}.covariates": self._covariates,
            f"{prefix}.tables": [{"name": t.name, "genes": t.genes.tolist()} for t in self.tables],
            f"{prefix}.graphs": [
                {"name": g.name, "genes": g.genes.tolist(), "split_hash": g.split_hash, "meta": g.meta}
                for g in self.graphs
            ],
            f"{prefix}.masks": None
            if self.masks is None
            else [self.masks.perturbations.tolist(), self.masks.genes.tolist()],
            **self._singles.meta(f"{prefix}.singles"),
        }

    def restore(
        self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any], genes: list[str]
    ) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        genes
            Gene ids [G] in the order of fitting.
        """
        self._genes = genes
        self.labels = {str(k): int(v) for k, v in meta[f"{prefix}.labels"].items()}
        self._known, self._response = set(meta[f"{prefix}.known"]), DoseResponse.restored(meta, f"{prefix}.")
        self._covariates = list(meta[f"{prefix}.covariates"])
        self._known_covariates = set(self._covariates)
        self._center, self._expression = arrays[f"{prefix}.center"], arrays[f"{prefix}.expression"]
        self.scale, self._feature_scale = arrays[f"{prefix}.scale"], arrays[f"{prefix}.feature_scale"]
        head = f"{prefix}.control."
        self._control = {k[len(head) :]: v for k, v in arrays.items() if k.startswith(head)}
        self._singles.restore(f"{prefix}.singles", arrays, meta)
        self.states.restore(f"{prefix}.states", arrays)
        self.tables = [
            GeneFeatures(
                t["name"],
                np.asarray(t["genes"], dtype=np.str_),
                arrays[f"{prefix}.table{i}"],
            )
            for i, t in enumerate(meta[f"{prefix}.tables"])
        ]
        if meta[f"{prefix}.masks"] is not None:
            perturbations, targets = (np.asarray(x, dtype=np.str_) for x in meta[f"{prefix}.masks"])
            self.masks = PertMasks(perturbations, targets, arrays[f"{prefix}.masks"])
        self.graphs = []
        for i, g in enumerate(meta[f"{prefix}.graphs"]):
            parts = tuple(arrays[f"{prefix}.graph{i}.{k}"] for k in ("data", "indices", "indptr"))
            n = len(g["genes"])
            self.graphs.append(
                GeneGraph(
                    g["name"],
                    np.asarray(g["genes"], dtype=np.str_),
                    sp.csr_array(parts, shape=(n, n)),
                    g["split_hash"],
                    g["meta"],
                )
            )


def _filled(x: FloatArray, width: int, axis: int) -> FloatArray:
    """Return the matrix `x` padded with zeros to the given width along an axis."""
    missing = [(0, 0), (0, 0)]
    missing[axis] = (0, width - x.shape[axis])
    return np.pad(x, missing)


def _control_axes(view: TrainView) -> dict[str, FloatArray]:
    """Return mean and scaled principal axes of the distinct controls, nothing if they do not differ."""
    if view.control is None:
        return {}
    states = distinct_rows(view.control)[0].astype(np.float64)
    k = min(_CONTEXT_COMPONENTS, len(states) - 1, states.shape[1])
    if k < 1:
        return {}
    found = principal_components(states, k)
    # One scale for all components: whitening would amplify those that are mostly sampling noise.
    scale = np.sqrt(max(float(found.variance[0]), 1e-12))
    return {"mean": found.mean.astype(np.float32), "axes": (found.axes / scale).astype(np.float32)}
