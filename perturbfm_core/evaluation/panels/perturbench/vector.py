"""PerturBench's metrics between predicted and observed vectors, for matching pairs or for all pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.ties import both_largest, expected_shared
from perturbfm_core.schema import BoolArray, FloatArray

TOP_K = 50


def r2_score(P: FloatArray, R: FloatArray) -> FloatArray:
    """Return [C], 1 - |p - r|^2 / |p - mean(p)|^2: the *prediction* is in the denominator.

    PerturBench passes the prediction as the true values to scikit-learn's ``r2_score``. A prediction that is constant
    up to rounding gives 1 where it is exact, otherwise 0, as a constant one there.
    """
    return _r2(np.square(P - R).sum(axis=1), _scatter(P))


def _scatter(P: FloatArray) -> FloatArray:
    scatter = np.square(P - P.mean(axis=1, keepdims=True)).sum(axis=1)
    return np.where(rowwise.constant(P), 0.0, scatter)


def _r2(residual: FloatArray, scatter: FloatArray) -> FloatArray:
    out = np.where(residual == 0, 1.0, 0.0)
    ratio = np.divide(residual, scatter, out=np.zeros_like(out), where=scatter > 0)
    return np.asarray(np.where((scatter > 0) & (residual > 0), 1 - ratio, out))


def rmse(P: FloatArray, R: FloatArray) -> FloatArray:
    """Return [C], the root mean squared difference."""
    return np.sqrt(rowwise.mean_square(P - R))


def top_k_recall(P: FloatArray, R: FloatArray, k: int = TOP_K) -> FloatArray:
    """Return [C], the number of columns among the k largest in size on both sides, divided by k.

    Parameters
    ----------
    P, R
        Predicted and observed vectors [C, G].
    k
        Number of largest columns; ties go to the earlier one, zeros are taken where nothing else is left, as in
        PerturBench. `shared_recall` is the one for users.
    """
    return np.asarray((_top(P, k) & _top(R, k)).sum(axis=1) / k)


def sizes(A: FloatArray) -> FloatArray:
    """Return |A| [C, G] as PerturBench sorts it: what is undefined comes before what is infinite, all of it finite here."""
    size = np.abs(A)
    above = np.max(size, axis=1, keepdims=True, initial=1.0, where=np.isfinite(size))
    return np.asarray(np.where(np.isnan(size), 4 * above, np.where(np.isinf(size), 2 * above, size)))


def _top(A: FloatArray, k: int) -> BoolArray:
    hit = np.zeros(A.shape, dtype=np.bool_)
    np.put_along_axis(hit, np.argsort(-sizes(A), axis=1, kind="stable")[:, :k], True, axis=1)
    return hit


def shared_recall(P: FloatArray, R: FloatArray, k: int = TOP_K) -> FloatArray:
    """Return [C], the expected share of the k largest observed columns among the k largest predicted ones, ties shared.

    Zeros are never among the largest, and k shrinks to what is nonzero on both sides. NaN where a row is zero, or has
    fewer than `k` columns.

    Parameters
    ----------
    P, R
        Predicted and observed vectors [C, G].
    k
        Number of largest columns.
    """
    a, b = both_largest(P, R, k)
    out = np.full(len(P), np.nan)
    np.divide(expected_shared(a, b), a.k, out=out, where=(a.k > 0) & (P.shape[1] >= k))
    return out


def _squares(P: FloatArray, R: FloatArray) -> FloatArray:
    """Return [I, J], squared distances, of centred vectors to lose less to cancellation."""
    center = R.mean(axis=0)
    A, B = P - center, R - center
    D = np.square(A).sum(axis=1)[:, None] + np.square(B).sum(axis=1)[None, :] - 2 * (A @ B.T)
    return np.asarray(np.maximum(D, 0.0))


def _directions(A: FloatArray, *, center: bool) -> FloatArray:
    """Return rows scaled to length 1, NaN for rows that are zero (or constant, if centred)."""
    D = A - A.mean(axis=1, keepdims=True) if center else A
    norm = np.sqrt(np.einsum("ij,ij->i", D, D))
    defined = (norm > 0) & ~rowwise.constant(A) if center else norm > 0
    out = np.full(D.shape, np.nan)
    np.divide(D, norm[:, None], out=out, where=defined[:, None])
    return out


def _dots(P: FloatArray, R: FloatArray) -> FloatArray:
    bad = np.isnan(P[:, 0])[:, None] | np.isnan(R[:, 0])[None, :]
    return np.asarray(np.where(bad, np.nan, np.clip(np.nan_to_num(P) @ np.nan_to_num(R).T, -1.0, 1.0)))


@dataclass(frozen=True, slots=True)
class VectorMetric:
    """One metric between vectors.

    Attributes
    ----------
    score
        (predicted [C, G], observed [C, G]) -> float64 [C].
    pairwise
        (predicted [I, G], observed [J, G]) -> float64 [I, J], the metric or an increasing function of it, for ranks.
    similarity
        Whether larger is better.
    bounds
        Smallest and largest possible value.
    text
        Name in descriptions of metrics.
    """

    score: Callable[[FloatArray, FloatArray], FloatArray]
    pairwise: Callable[[FloatArray, FloatArray], FloatArray]
    similarity: bool
    bounds: tuple[float | None, float | None]
    text: str

    def all_pairs(self, P: FloatArray, R: FloatArray) -> FloatArray:
        """Return [I, J], the metric itself of all pairs."""
        return np.asarray([self.score(np.broadcast_to(p, R.shape), R) for p in P])


VECTOR_METRICS: dict[str, VectorMetric] = {
    "pearson": VectorMetric(
        rowwise.pearson,
        lambda P, R: _dots(_directions(P, center=True), _directions(R, center=True)),
        True,
        (-1.0, 1.0),
        "Pearson correlation",
    ),
    "r2_score": VectorMetric(
        r2_score,
        lambda P, R: _r2(_squares(P, R), np.broadcast_to(_scatter(P)[:, None], (len(P), len(R)))),
        True,
        (None, 1.0),
        "R2 with the prediction's variance in the denominator",
    ),
    "cosine": VectorMetric(
        rowwise.cosine,
        lambda P, R: _dots(_directions(P, center=False), _directions(R, center=False)),
        True,
        (-1.0, 1.0),
        "Cosine",
    ),
    "mse": VectorMetric(
        lambda P, R: rowwise.mean_square(P - R), _squares, False, (0.0, None), "Mean squared error"
    ),
    "rmse": VectorMetric(rmse, _squares, False, (0.0, None), "Root mean squared error"),
    "mae": VectorMetric(
        lambda P, R: rowwise.mean_absolute(P - R),
        lambda P, R: cdist(P, R, "cityblock"),
        False,
        (0.0, None),
        "Mean absolute error",
    ),
    "top_k_recall": VectorMetric(
        top_k_recall,
        lambda P, R: _top(P, TOP_K).astype(np.float64) @ _top(R, TOP_K).T.astype(np.float64),
        True,
        (0.0, 1.0),
        f"Share of the {TOP_K} largest entries that are also the observed ones' largest",
    ),
}
