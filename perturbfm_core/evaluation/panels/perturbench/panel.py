"""Panel `perturbench`: metrics of PerturBench, in version V2 (commit cafe4c9) unless a name ends in ``_v1``.

Names are those of PerturBench's summary table: ``<metric>_<aggregation>`` and ``<metric>_rank_<aggregation>``.
Covariates are contexts. Observed controls are used on both sides, as in PerturBench's test step.

* ``average``, ``logfc`` and ``pca_average`` depend on means alone: the predicted mean is the control mean
  plus the predicted delta (in ``logfc`` at least 0, because the logarithm of a negative mean is undefined).
* The other aggregations use generated cells, so that even a perfect mean does not give a perfect score.
* Ranks are among the tested conditions of the context. Ties take their mean position, and the only condition of
  a context has rank 0, as in PerturBench.
* Correlations, R2 and cosines of vectors that are constant up to rounding are undefined. In ``top_k_recall`` ties share
  the places left, zeros have none, and k shrinks where fewer entries are nonzero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.cells import Cells
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import MetricFunction, metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.perturbench import aggregate, clouds, collapse, components, differential
from perturbfm_core.evaluation.panels.perturbench.components import Basis
from perturbfm_core.evaluation.panels.perturbench.population import Blocks, Controls, Population, dense
from perturbfm_core.evaluation.panels.perturbench.rank import Denominator, ranks_by_covariate
from perturbfm_core.evaluation.panels.perturbench.vector import TOP_K, VECTOR_METRICS, shared_recall
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

PANEL = "perturbench"
SOURCE = "PerturBench (Wu et al. 2024), cafe4c9"
SOURCE_V1 = "PerturBench (Wu et al. 2024), d357dfa"
_OWN = "PerturbFM"
# Generated cells are kept in memory up to this size, and generated again when needed above it.
_KEPT_BYTES = 64e6
# Distances are in double precision up to this many multiplications, in single precision above.
_DOUBLE_WORK = 5e9

add_panel(PANEL, source=SOURCE, headline="cosine_logfc", order=30)

Vectors = Callable[[Comparison], tuple[FloatArray, FloatArray]]


def _codes(c: Comparison) -> IntArray:
    return c.once_per_observed("perturbench.codes", lambda: np.unique(c.contexts, return_inverse=True)[1])


def _cells(c: Comparison) -> Cells:
    if c.cells is None:
        msg = "this comparison has no cells"
        raise MetricError(msg)
    return c.cells


def _observed(c: Comparison) -> Population:
    """Return the observed cells, made once for all predictions, and therefore without a reference to any of them."""

    def make() -> Population:
        cells = _cells(c)
        X, rows = cells.X, cells.truth_rows
        controls = [cells.control_rows[str(name)] for name in np.unique(c.contexts)]
        return Population(lambda k: X[rows[k]], _codes(c), Controls(lambda v: X[controls[v]], len(controls)))

    return c.once_per_observed("perturbench.observed", make)


def _predicted(c: Comparison) -> Population:
    def make() -> Population:
        cells, observed = _cells(c), _observed(c)
        block: Blocks = cells.predicted
        if 4.0 * len(c.genes) * sum(map(len, cells.truth_rows)) <= _KEPT_BYTES:
            block = [cells.predicted(i) for i in range(len(cells))].__getitem__
        return Population(block, observed.covariate, observed.controls)

    return c.once("perturbench.predicted", make)


def _basis(c: Comparison) -> Basis:
    return c.once_per_observed("perturbench.basis", lambda: components.fit(_observed(c)))


# ---- aggregations: (predicted, observed), each [C, G] or NaN where there are no controls -------------------


def _average(c: Comparison) -> tuple[FloatArray, FloatArray]:
    if c.control is None:
        nothing = np.full(c.observed.shape, np.nan)
        return nothing, nothing
    return c.control + c.predicted, c.control + c.observed


def _logfc(c: Comparison) -> tuple[FloatArray, FloatArray]:
    P, R = _average(c)
    if c.control is None:
        return P, R
    return aggregate.logfc(np.maximum(P, 0.0), c.control), aggregate.logfc(R, c.control)


def _pca_average(c: Comparison) -> tuple[FloatArray, FloatArray]:
    P, R = _average(c)
    return components.pca_average(P, _basis(c)), components.pca_average(R, _basis(c))


def _by_cells(name: str, function: Callable[[Population], FloatArray]) -> Vectors:
    def sides(c: Comparison) -> tuple[FloatArray, FloatArray]:
        observed = c.once_per_observed(f"perturbench.{name}.observed", lambda: function(_observed(c)))
        return function(_predicted(c)), observed

    return sides


def _by_several(name: str, function: Callable[[Population], FloatArray]) -> Vectors:
    """Return an aggregation that is NaN for conditions of one cell, where PerturBench raises or returns 0."""

    def several(population: Population) -> FloatArray:
        enough = (population.moments.n > 1) & (population.controls.moments.n > 1)[population.covariate]
        return np.where(enough[:, None], function(population), np.nan)

    return _by_cells(name, several)


def _variation(population: Population) -> FloatArray:
    return aggregate.dispersion(population.moments)


@dataclass(frozen=True, slots=True)
class _Aggregation:
    """How cells become one vector per condition; `text` names the vector in descriptions of metrics."""

    name: str
    text: str
    vectors: Vectors
    undefined: str | None = None
    needs: Literal["conditions", "cells"] = "cells"

    def defined(self, c: Comparison) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return (predicted [C, G], observed [C, G], where both are defined [C])."""

        def make() -> tuple[FloatArray, FloatArray, BoolArray]:
            P, R = self.vectors(c)
            return P, R, np.asarray(np.isfinite(P + R).all(axis=1))

        return c.once(f"perturbench.{self.name}", make)


_NO_CONTROLS = "the data set has no control means"
_ONE_CELL = "the condition or its context's controls have a single cell"
_AGGREGATIONS = {
    a.name: a
    for a in (
        _Aggregation("average", "mean expression", _average, _NO_CONTROLS, "conditions"),
        _Aggregation("logfc", "log2 fold change of mean + 0.1", _logfc, _NO_CONTROLS, "conditions"),
        _Aggregation("pca_average", "mean principal coordinates", _pca_average, _NO_CONTROLS),
        _Aggregation("scores", "t-scores", _by_several("scores", differential.scores), _ONE_CELL),
        _Aggregation("scaled", "mean standardised expression", _by_cells("scaled", aggregate.scaled)),
        _Aggregation("var", "coefficients of variation", _by_several("var", _variation), _ONE_CELL),
        _Aggregation("logp", "signed -ln adjusted p", _by_several("logp", differential.logp), _ONE_CELL),
        _Aggregation("pvals", "p-values", _by_several("pvals", differential.pvals), _ONE_CELL),
    )
}
_RANKED = ("rmse", "cosine")
# Undefined for vectors that are constant up to rounding, where PerturBench has a convention or a rounding error.
_RELATIVE = ("pearson", "r2_score", "cosine")


def _register(name: str, aggregation: str) -> None:
    """Register one metric of one aggregation."""
    how, kind = _AGGREGATIONS[aggregation], VECTOR_METRICS[name]
    largest = name == "top_k_recall"

    def value(c: Comparison) -> FloatArray:
        P, R, good = how.defined(c)
        out = np.full(len(c), np.nan)
        if good.any():
            score = shared_recall if largest else kind.score
            out[good] = score(P[good], R[good])
        if name in _RELATIVE and good.any():
            out[good] = np.where(rowwise.constant(P[good]) | rowwise.constant(R[good]), np.nan, out[good])
        return out

    def places(c: Comparison) -> IntArray:
        P, R, good = how.defined(c)
        k = np.full(len(c), TOP_K)
        k[good] = rowwise.top_places(P[good], R[good], TOP_K)
        return k

    flat = "the predicted or the observed vector is constant over its entries"
    own = {
        "top_k_recall": f"there are fewer than {TOP_K} entries to choose from, or all are zero on one side",
        **dict.fromkeys(_RELATIVE, flat),
    }
    reasons = [reason for reason in (own.get(name), how.undefined) if reason]
    metric(
        PANEL,
        f"{name}_{aggregation}",
        f"{kind.text} of predicted and observed {how.text}.",
        direction="max" if kind.similarity else "min",
        bounds=kind.bounds,
        version="V2",
        source=SOURCE,
        undefined=", or ".join(reasons) or "never undefined",
        needs=how.needs,
        k=TOP_K if largest else 0,
        places=places if largest else None,
    )(value)


def _register_rank(name: str, aggregation: str, denominator: Denominator = "n-1") -> None:
    """Register the rank of one metric of one aggregation; over N it is version V1."""
    how, kind = _AGGREGATIONS[aggregation], VECTOR_METRICS[name]

    def rank(c: Comparison) -> FloatArray:
        P, R, good = how.defined(c)
        P, R = P[good], R[good]
        out = np.full(len(c), np.nan)
        out[good] = ranks_by_covariate(
            _codes(c)[good],
            lambda rows: kind.pairwise(P[rows], R[rows]),
            similarity=kind.similarity,
            denominator=denominator,
        )
        return out

    first = denominator == "n"
    metric(
        PANEL,
        f"{name}_rank_{aggregation}" + ("_v1" if first else ""),
        f"Share of the context's {'' if first else 'other '}conditions whose prediction "
        f"resembles the observation more ({name} of {how.text}).",
        direction="min",
        bounds=(0.0, 1.0),
        version="V1" if first else "V2",
        source=SOURCE_V1 if first else SOURCE,
        undefined=how.undefined or "never undefined",
        needs=how.needs,
    )(rank)


# ---- clouds of cells ---------------------------------------------------------------------------------------


def _precision(work: float) -> type[np.float32] | type[np.float64]:
    return np.float64 if work <= _DOUBLE_WORK else np.float32


def _pca(c: Comparison) -> tuple[list[FloatArray], list[FloatArray]]:
    observed = c.once_per_observed(
        "perturbench.pca.observed", lambda: components.project(_observed(c), _basis(c))
    )
    return c.once("perturbench.pca", lambda: components.project(_predicted(c), _basis(c))), observed


def _inner(c: Comparison) -> tuple[FloatArray, FloatArray]:
    P, R = _pca(c)
    other = c.once_per_observed("perturbench.pca.inner_observed", lambda: clouds.inner_distances(R))
    return c.once("perturbench.pca.inner", lambda: clouds.inner_distances(P)), other


def mmd_pca(c: Comparison) -> FloatArray:
    """Energy distance (MMD with the energy kernel) of predicted and observed cells in principal coordinates."""
    return clouds.mmd(*_pca(c), _inner(c))


def mmd_rank_pca(c: Comparison) -> FloatArray:
    """Share of the context's other conditions whose cells resemble the observed ones more (mmd of pca)."""
    (P, R), (own, other), codes = _pca(c), _inner(c), _codes(c)
    sizes = np.bincount(codes, weights=[len(x) for x in R])
    dtype = _precision(float(np.square(sizes).max()) * R[0].shape[1])

    def pairwise(rows: IntArray) -> FloatArray:
        inner = (own[rows], other[rows])
        return clouds.mmd_matrix([P[i] for i in rows], [R[i] for i in rows], inner, dtype)

    tolerance = 1e-10 if dtype is np.float64 else 1e-6
    return ranks_by_covariate(codes, pairwise, similarity=False, tolerance=tolerance)


def mmd_none(c: Comparison) -> FloatArray:
    """Energy distance (MMD with the energy kernel) of predicted and observed cells in expression."""
    P, R, G = _predicted(c), _observed(c), len(c.genes)
    n = R.moments.n.astype(np.float64)
    dtype = _precision(float(np.square(n).sum()) * G)

    def inner(p: Population) -> FloatArray:
        return np.concatenate([clouds.inner_distances([dense(p.block(k))], dtype) for k in range(len(p))])

    other = c.once_per_observed("perturbench.none.inner_observed", lambda: inner(R))
    own = inner(P)
    out = np.empty(len(c))
    for k in range(len(c)):
        sides = [dense(P.block(k))], [dense(R.block(k))]
        out[k] = clouds.mmd(*sides, (own[k : k + 1], other[k : k + 1]), dtype)[0]
    return out


def energy_none(c: Comparison) -> FloatArray:
    """E-distance (squared Euclidean, unbiased, so that it can be negative) of predicted and observed cells."""
    return clouds.energy(_predicted(c).moments, _observed(c).moments)


def _register_cloud(function: MetricFunction, lowest: float | None, highest: float | None) -> None:
    metric(
        PANEL,
        function.__name__,
        direction="min",
        bounds=(lowest, highest),
        version="V1" if function is energy_none else "V2",
        source=SOURCE_V1 if function is energy_none else SOURCE,
        undefined="a condition has a single cell" if function is energy_none else "never undefined",
        needs="cells",
    )(function)


# ---- registration: PerturBench's headline pairs first -------------------------------------------------------

_HEADLINE = [("average", "rmse"), ("logfc", "cosine"), ("pca_average", "cosine")]
_SCORED = [("scores", "r2_score"), ("scores", "top_k_recall")]

for _a, _m in _HEADLINE:
    _register(_m, _a)
    _register_rank(_m, _a)
for _a, _m in _SCORED:
    _register(_m, _a)
_register_cloud(mmd_pca, 0.0, None)
_register_cloud(mmd_rank_pca, 0.0, 1.0)
for _a in _AGGREGATIONS:
    for _m in VECTOR_METRICS:
        if (_a, _m) not in [*_HEADLINE, *_SCORED]:
            _register(_m, _a)
        if _m in _RANKED and (_a, _m) not in _HEADLINE:
            _register_rank(_m, _a)
_register_cloud(mmd_none, 0.0, None)
_register_cloud(energy_none, None, None)
for _a, _m in _HEADLINE[:2]:
    _register_rank(_m, _a, "n")


# ---- this project's own ------------------------------------------------------------------------------------


def _per_context(c: Comparison, function: Callable[[FloatArray, FloatArray], float]) -> FloatArray:
    codes = _codes(c)
    values = [function(c.predicted[codes == v], c.observed[codes == v]) for v in range(int(codes.max()) + 1)]
    return np.asarray(values)[codes]


@metric(
    PANEL,
    "variance_ratio",
    direction="target",
    target=1.0,
    bounds=(0.0, None),
    version="1",
    source=_OWN,
    undefined="the context has one tested condition, or its observed deltas are equal",
)
def variance_ratio(c: Comparison) -> FloatArray:
    """Variance between predicted deltas over that between observed ones, of the context's conditions; below 1 a model collapses."""
    return _per_context(c, collapse.variance_ratio)


@metric(
    PANEL,
    "diversity_ratio",
    direction="target",
    target=1.0,
    bounds=(0.0, None),
    version="1",
    source=_OWN,
    undefined="the context has one tested condition, or its observed deltas all point the same way",
)
def diversity_ratio(c: Comparison) -> FloatArray:
    """1 - mean cosine between predicted deltas over that of observed ones, of the context's conditions."""
    return _per_context(c, collapse.diversity_ratio)


@metric(
    PANEL,
    "spearman_delta",
    direction="max",
    bounds=(-1.0, 1.0),
    version="1",
    source=_OWN,
    undefined="predicted or observed delta is constant over genes",
)
def spearman_delta(c: Comparison) -> FloatArray:
    """Spearman rank correlation over genes of predicted and observed delta."""
    return collapse.spearman(c.predicted, c.observed)
