"""PerturBench's rank metric: the share of other predictions that resemble an observation more than its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from perturbfm_core.schema import FloatArray, IntArray

Denominator = Literal["n", "n-1"]

TIE = 1e-10


def ranks(
    M: FloatArray, *, similarity: bool, denominator: Denominator = "n-1", tolerance: float = TIE
) -> FloatArray:
    """Return [N], for each observation the position of its own prediction, divided by N - 1 (V2) or N (V1).

    Parameters
    ----------
    M
        [N, N], metric of prediction i (row) and observation j (column).
    similarity
        Whether larger is better.
    denominator
        ``n-1`` (V2) or ``n`` (V1); a single candidate has rank 0 in both.
    tolerance
        Values that differ by no more than this share of the column's largest are tied.

    Notes
    -----
    Ties take their mean position, where PerturBench breaks them at random; undefined values come last.
    """
    N = len(M)
    worse = -M if similarity else M
    own = np.diag(worse)
    with np.errstate(invalid="ignore"):
        gap = np.where(worse == own, 0.0, worse - own)
    scale = np.max(np.abs(M), axis=0, initial=0.0, where=np.isfinite(M))
    undefined = np.isnan(worse)
    tied = np.where(undefined, False, np.abs(gap) <= tolerance * scale)
    before = np.where(undefined | tied, False, gap < 0).sum(axis=0) + 0.5 * (tied.sum(axis=0) - 1)
    last = (~undefined).sum(axis=0) + 0.5 * (undefined.sum(axis=0) - 1)
    position = np.where(np.isnan(own), last, before)
    return np.asarray(position / max(N - 1 if denominator == "n-1" else N, 1))


def ranks_by_covariate(
    covariate: IntArray,
    pairwise: Callable[[IntArray], FloatArray],
    *,
    similarity: bool,
    denominator: Denominator = "n-1",
    tolerance: float = TIE,
) -> FloatArray:
    """Return [K], ranks among the groups of the same covariate combination.

    Parameters
    ----------
    covariate
        Covariate combination of each group [K].
    pairwise
        (positions of N groups) -> metric [N, N] of their predictions (rows) and observations (columns).
    similarity, denominator, tolerance
        See `ranks`.
    """
    out = np.empty(len(covariate))
    for v in np.unique(covariate):
        rows = np.flatnonzero(covariate == v)
        out[rows] = ranks(pairwise(rows), similarity=similarity, denominator=denominator, tolerance=tolerance)
    return out
