"""Bounds of PerturBench's numbers when tied entries may come in any order.

PerturBench takes the largest entries with an unstable sort, whose order of ties depends on the processor.
Differences of the size of rounding count as ties.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, islice

import numpy as np

from perturbfm_core.evaluation.panels.perturbench.vector import sizes
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

_NEAR = 1e-6
_MOST = 5000


def top_sets(A: FloatArray, k: int) -> tuple[BoolArray, BoolArray, IntArray]:
    """Return (surely among the k largest in size [C, G], tied for a place [C, G], places left for ties [C])."""
    size = sizes(A)
    if A.shape[1] <= k:
        return (
            np.ones(A.shape, dtype=np.bool_),
            np.zeros(A.shape, dtype=np.bool_),
            np.zeros(len(A), dtype=int),
        )
    last = -np.sort(-size, axis=1)[:, k - 1 : k]
    margin = _NEAR * last + _NEAR * 0.1
    sure, tied = size > last + margin, np.abs(size - last) <= margin
    # No choice is left where there is a place for each.
    placed = tied & (sure.sum(axis=1) + tied.sum(axis=1) == k)[:, None]
    sure = sure | placed
    return sure, tied & ~placed, k - sure.sum(axis=1)


def recall_bounds(P: FloatArray, R: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """Return (least [I, J], most [I, J]) of the share of P's k largest entries that are among R's k largest.

    Parameters
    ----------
    P, R
        Predicted [I, G] and observed [J, G] vectors.
    k
        Number of largest entries.
    """
    sp, tp, np_ = top_sets(P, k)
    sr, tr, nr = top_sets(R, k)

    def common(a: BoolArray, b: BoolArray) -> FloatArray:
        return np.asarray(a.astype(np.float64) @ b.T.astype(np.float64))

    both = common(sp, sr)
    # Least overlap: ties fill places outside the other set as far as there are any; the others are forced into it.
    forced = np.maximum(nr[None, :] - common(~sp, tr), 0) + np.maximum(np_[:, None] - common(tp, ~sr), 0)
    # Most overlap: ties are placed on the other side's sure entries, then on entries tied on both sides.
    free = (
        np.minimum(nr[None, :], common(sp, tr))
        + np.minimum(np_[:, None], common(tp, sr))
        + np.minimum(np.minimum(np_[:, None], nr[None, :]), common(tp, tr))
    )
    return (both + forced) / k, np.minimum(both + free, k) / k


def rank_bounds(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return (least [N], most [N]) position of each own prediction, for a similarity between `low` and `high`."""
    off = ~np.eye(len(low), dtype=np.bool_)
    own_low, own_high = np.diag(low), np.diag(high)
    surely_better = ((low > own_high + 1e-12) & off).sum(axis=0)
    perhaps_better = ((high >= own_low - 1e-12) & off).sum(axis=0)
    return surely_better.astype(np.float64), perhaps_better.astype(np.float64)


def near_rank_bounds(M: FloatArray, *, similarity: bool) -> tuple[FloatArray, FloatArray]:
    """Return (least [N], most [N]) position of each own prediction where values that differ by rounding may be in any order.

    Parameters
    ----------
    M
        [N, N], metric of prediction i (row) and observation j (column); NaN comes last.
    similarity
        Whether larger is better.
    """
    better = np.where(np.isnan(M), -np.inf, M if similarity else -M)
    near = _NEAR * np.max(np.abs(M), axis=0, initial=0.0, where=np.isfinite(M))
    return rank_bounds(better - near, better + near)


def over_choices(
    values: FloatArray, k: int, metric: Callable[[IntArray], float]
) -> tuple[IntArray, float | None, float | None]:
    """Return (the k largest in size, least and most of `metric` over choices of ties; None without ties).

    Parameters
    ----------
    values
        Values of genes [G].
    k
        Number of genes to choose.
    metric
        (positions of k genes) -> value; evaluated for at most 5,000 choices.
    """
    sure, tied, left = (x[0] for x in top_sets(values[None, :], k))
    fixed, open_ = np.flatnonzero(sure), np.flatnonzero(tied)
    first = np.concatenate([fixed, open_[: int(left)]])
    if len(open_) == int(left):
        return first, None, None
    chosen = islice(combinations(open_.tolist(), int(left)), _MOST)
    found = [metric(np.concatenate([fixed, np.asarray(c, dtype=np.int64)])) for c in chosen]
    return first, float(np.min(found)), float(np.max(found))
