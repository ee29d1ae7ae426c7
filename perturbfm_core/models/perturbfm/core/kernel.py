"""Kernel between conditions: components fitted on train conditions and evaluated on any conditions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.models.baselines.dose_response import DoseResponse
from perturbfm_core.models.baselines.effects import CONTEXT_LEVELS, EffectTable, distinct_rows
from perturbfm_core.models.perturbfm.core.described import (
    OTHER_COVARIATES,
    Described,
    median_of,
    only,
    over_parts,
    squared_distances,
)
from perturbfm_core.models.perturbfm.core.feature_kernel import FeatureKernel, feature_similarity
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.perturbfm.interventions import active_components, interventions, measured_singles
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.models.scale import USUAL, Scale, some_rows
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

N_COMPONENTS = 60
N_CONTEXT_COMPONENTS = 10


class SimilarityKernel:
    """The fitted components of the kernel.

    Parameters
    ----------
    tables
        Gene-feature tables.
    scale
        Sizes beyond which length scales are medians over some conditions, and axes are approximate.
    components
        Number of principal axes of the train deltas on which effects are compared.
    """

    def __init__(
        self,
        tables: Sequence[GeneFeatures] = (),
        scale: Scale = USUAL,
        components: int = N_COMPONENTS,
    ) -> None:
        self.tables = tuple(tables)
        self.components = components
        self.scale = scale
        self.contexts = 0
        self._response = DoseResponse()
        self._singles = EffectTable(CONTEXT_LEVELS)
        self._axes: FloatArray = np.zeros((0, 0))
        self._context_mean: FloatArray = np.zeros(0)
        self._context_axes: FloatArray = np.zeros((0, 0))
        self._conditions = pd.DataFrame(columns=list(schema.CONDITION_COLUMNS))
        self._context_scores: FloatArray | None = None
        self._width = {"effect": 1.0, "pair": 1.0, "linear": 1.0, "context": 1.0}
        self._train: Described | None = None
        self._features: FeatureKernel | None = None

    def fit(self, view: TrainView) -> SimilarityKernel:
        """Learn axes and length scales from train conditions."""
        self._conditions = view.conditions[list(schema.CONDITION_COLUMNS)].astype(str)
        self._response = DoseResponse.fit(view)
        self.contexts = self._conditions[schema.CONTEXT_ID].nunique()
        large = self.scale.approximates(len(view))
        delta = view.delta if large else view.delta.astype(np.float64)
        single = measured_singles(view.conditions)
        k = min(self.components, *delta.shape)
        self._axes = (
            principal_components(delta, k, self.scale.exact).varying().astype(delta.dtype)
            if len(delta) > 1
            else np.zeros((0, delta.shape[1]))
        )
        self._singles = EffectTable(CONTEXT_LEVELS)
        # Scores are not centred, so that the origin is no effect, which is also the value of an unmeasured
        # gene.
        if single.any() and len(self._axes):
            amount = interventions(view.conditions[single], self._response).amount
            scores = delta[single] @ self._axes.T
            # Least squares in proportion to the amounts, so that a dose that train lacks takes part of the others.
            weights = None if (amount == 1.0).all() else amount**2
            scores = scores if weights is None else scores / amount[:, None]
            self._singles.fit(view.conditions[single], scores.astype(np.float32), weights)
        self._context_mean, self._context_axes = np.zeros(0), np.zeros((0, 0))
        if view.control is not None and self.contexts > 1:
            # Distinct profiles only: a context with many conditions should not count more than others.
            states = distinct_rows(view.control)[0].astype(np.float64)
            k = min(N_CONTEXT_COMPONENTS, len(states) - 1, states.shape[1])
            if k > 0:
                found = principal_components(states, k, self.scale.exact)
                self._context_mean, self._context_axes = found.mean, found.axes
        self._context_scores = self._context(view.control)
        self._train, self._features = self._describe(view.conditions, self._context_scores), None
        t = self._train
        # Squared length scales: the median of the non-zero squared distances in train.
        sums = self._some(t.sums)
        self._width = {
            "effect": median_of(squared_distances(sums, sums)),
            "pair": self._spread_of(t.effects) if len(t.effects) else 1.0,
            "linear": float(np.median((t.sums**2).sum(axis=1))) or 1.0,
            "context": 1.0 if t.context is None else self._spread_of(t.context),
        }
        return self

    def _some(self, rows: FloatArray) -> FloatArray:
        """Return the rows, or some of them where there are more than are treated exactly."""
        few = not self.scale.approximates(len(rows))
        return rows if few else rows[some_rows(len(rows), self.scale.inducing)]

    def _spread_of(self, rows: FloatArray) -> float:
        distinct = self._some(np.unique(rows, axis=0))
        return median_of(squared_distances(distinct, distinct))

    def can(self, kernel: Kernel) -> bool:
        """Return whether the data support this kernel.

        Effects need measured singles, features need a table.
        """
        effects = kernel.effect or kernel.pair or kernel.linear
        if effects and not any(self._singles.keys):
            return False
        return not (kernel.features and not self.tables)

    @property
    def conditions(self) -> pd.DataFrame:
        """Return the train conditions."""
        return self._conditions

    def described(self, query: Query) -> Described:
        """Return conditions as inputs of the kernel."""
        return self._describe(query.conditions, self._context(query.control))

    def train_rows(self, rows: IntArray) -> Described:
        """Return the train conditions at some positions as inputs of the kernel."""
        scores = self._context_scores
        return self._describe(self._conditions.iloc[rows], None if scores is None else scores[rows])

    def blocks(
        self,
        query: Query | Described | None = None,
        against: Query | Described | None = None,
        shared: frozenset[str] | None = None,
    ) -> Callable[[Kernel], FloatArray]:
        """Return a function from weights to the kernel between two sets of conditions, float64 [q, n].

        The components are computed once, so that many kernel weights can be tried on them.

        Parameters
        ----------
        query
            Conditions [q] of the rows (default: those of `against`).
        against
            Conditions [n] of the columns (default: train).
        shared
            Labels of perturbed genes that count as shared ones (default: all).
        """

        def read(x: Query | Described) -> Described:
            return self.described(x) if isinstance(x, Query) else x

        t = self.train if against is None else read(against)
        a = t if query is None else read(query)
        perturbation = {
            "identity": self._identity(a, t, shared),
            "effect": np.exp(-squared_distances(a.sums, t.sums) / self._width["effect"]),
            "pair": over_parts(a, t, np.exp(-squared_distances(a.effects, t.effects) / self._width["pair"])),
            "linear": a.sums @ t.sums.T / self._width["linear"],
        }
        features: dict[tuple[float, ...], FloatArray] = {}
        same = _same_covariates(a, t)
        context = self._context_similarity(a, t, same)

        def kernel_of(kernel: Kernel) -> FloatArray:
            K = np.zeros_like(context)
            for name, block in perturbation.items():
                weight = float(getattr(kernel, name))
                if weight:
                    K += weight * block
            if kernel.features:
                if kernel.tables not in features:
                    features[kernel.tables] = self.features.between(a, t, kernel.tables)
                K += kernel.features * features[kernel.tables]
            # A product of kernels: the share that is specific to the context counts in similar contexts only.
            if kernel.context:
                K *= (1.0 - kernel.context) + kernel.context * context
            if kernel.covariates:
                K *= np.where(same, 1.0, 1.0 - kernel.covariates)
            if kernel.level:
                K += kernel.level * context
            return K

        return kernel_of

    def diagonal(self, query: Query | Described, kernel: Kernel) -> FloatArray:
        """Return float64 [q], the kernel of each condition with itself.

        The similarity of a context with itself is 1, so that `context` has no effect here and `level` adds
        its weight.
        """
        a = self.described(query) if isinstance(query, Query) else query
        out = np.zeros(a.parts.n)
        # Parts of a condition are adjacent.
        ends = np.searchsorted(a.parts.owner, np.arange(a.parts.n + 1))
        for i in range(a.parts.n):
            at = np.arange(ends[i], ends[i + 1])
            amount = a.parts.amount[at]
            E = a.effects[at]
            out[i] += kernel.identity * float((amount**2).sum()) + kernel.effect
            if kernel.pair:
                out[i] += kernel.pair * float(
                    amount @ np.exp(-squared_distances(E, E) / self._width["pair"]) @ amount
                )
            out[i] += kernel.linear * float((a.sums[i] ** 2).sum()) / self._width["linear"]
            if kernel.features:
                one = only(a, at)
                signed = amount * a.parts.sign[at]
                own = feature_similarity(one, one, kernel.tables)
                out[i] += kernel.features * float(signed @ own @ signed)
        return out + kernel.level

    # ---- describing ------------------------------------------------------------------------------------

    @property
    def train(self) -> Described:
        """Return the train conditions as inputs of the kernel."""
        if self._train is None:
            self._train = self._describe(self._conditions, self._context_scores)
        return self._train

    @property
    def features(self) -> FeatureKernel:
        """Return the kernel by gene features."""
        if self._features is None:
            self._features = FeatureKernel(self.train, exact=not self.scale.approximates(self.train.parts.n))
        return self._features

    def _context(self, control: FloatArray | None) -> FloatArray | None:
        if control is None or not len(self._context_axes):
            return None
        out: FloatArray = (control - self._context_mean) @ self._context_axes.T
        return out

    def _describe(self, conditions: pd.DataFrame, context: FloatArray | None) -> Described:
        parts = interventions(conditions, self._response)
        table, owner = active_components(conditions)
        if any(self._singles.keys):
            effects, _ = self._singles.look_up(table)
        else:
            effects = np.zeros((len(table), len(self._axes)), dtype=np.float32)
        effects = effects.astype(np.float64) * parts.amount[:, None]
        sums = np.zeros((len(conditions), effects.shape[1]))
        # Effects are those of train singles, zero where a gene was not measured as a single [parts, k].
        np.add.at(sums, owner, effects)
        described = []
        for t in self.tables:
            rows, known = t.rows(parts.genes)
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            described.append((rows / np.maximum(length, 1e-12), known & (length[:, 0] > 0)))
        return Described(
            parts=parts,
            effects=effects,
            sums=sums,
            tables=described,
            context=context,
            names=conditions[schema.CONTEXT_ID].astype(str).tolist(),
            covariates=conditions[schema.COVARIATES].astype(str).tolist(),
        )

    def _identity(self, a: Described, b: Described, shared: frozenset[str] | None) -> FloatArray:
        # Parts that occur in `a` only are shared with no condition of `b`.
        names = sorted(set(b.parts.labels) if shared is None else shared.intersection(b.parts.labels))
        out: FloatArray = a.parts.incidence(names) @ b.parts.incidence(names).T
        return out

    def _context_similarity(self, a: Described, b: Described, same: BoolArray) -> FloatArray:
        if a.context is not None and b.context is not None:
            out: FloatArray = np.exp(-squared_distances(a.context, b.context) / self._width["context"])
        else:
            out = (np.asarray(a.names)[:, None] == np.asarray(b.names)[None]).astype(np.float64)
        return np.asarray(np.where(same, out, OTHER_COVARIATES * out))

    @property
    def context_width(self) -> float:
        """Return the squared distance of control profiles at which contexts are alike by 1 / e."""
        return self._width["context"]

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        out = {
            f"{prefix}.context_mean": self._context_mean,
            f"{prefix}.context_axes": self._context_axes,
            f"{prefix}.axes": self._axes.astype(np.float32),
            **self._singles.arrays(f"{prefix}.singles"),
        }
        if self._context_scores is not None:
            out[f"{prefix}.context_scores"] = self._context_scores
        for i, table in enumerate(self.tables):
            out[f"{prefix}.table{i}"] = table.matrix
        return out

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.conditions": self._conditions.to_numpy().tolist(),
            f"{prefix}.keys": self._conditions.index.astype(str).tolist(),
            f"{prefix}.width": self._width,
            f"{prefix}.response": self._response.meta(),
            f"{prefix}.contexts": self.contexts,
            f"{prefix}.tables": [{"name": t.name, "genes": t.genes.tolist()} for t in self.tables],
            **self._singles.meta(f"{prefix}.singles"),
        }

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        """
        self._conditions = pd.DataFrame(
            meta[f"{prefix}.conditions"],
            columns=list(schema.CONDITION_COLUMNS),
            index=pd.Index(meta[f"{prefix}.keys"], name=schema.CONDITION),
        )
        self._width = {k: float(v) for k, v in meta[f"{prefix}.width"].items()}
        self._response, self.contexts = (
            DoseResponse.restored(meta, f"{prefix}."),
            int(meta[f"{prefix}.contexts"]),
        )
        self._context_mean = arrays[f"{prefix}.context_mean"]
        self._context_axes = arrays[f"{prefix}.context_axes"]
        self._axes = arrays[f"{prefix}.axes"]
        self._context_scores = arrays.get(f"{prefix}.context_scores")
        self._singles.restore(f"{prefix}.singles", arrays, meta)
        self.tables = tuple(
            GeneFeatures(
                t["name"],
                np.asarray(t["genes"], dtype=np.str_),
                arrays[f"{prefix}.table{i}"],
            )
            for i, t in enumerate(meta[f"{prefix}.tables"])
        )
        self._train = self._features = None


def _same_covariates(a: Described, b: Described) -> BoolArray:
    """Return bool [a, b], whether conditions have the same covariates."""
    number = {c: i for i, c in enumerate(dict.fromkeys([*a.covariates, *b.covariates]))}
    of_a, of_b = (np.asarray([number[c] for c in x.covariates], dtype=np.int64) for x in (a, b))
    return np.asarray(of_a[:, None] == of_b[None])
