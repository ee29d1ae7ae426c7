"""Conditions of a context ordered by effect size, observed and predicted: ranks, top hits and enrichment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from perturbfm_core.evaluation import ties
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import SetStatistic
from perturbfm_core.schema import FloatArray, IntArray

# Share of a context's conditions that are hits, at least one.
HIT_SHARE = 0.1
# A rank correlation of two conditions is 1 or -1 whatever they are.
FEWEST = 3
_LEAST_FOR_A_RANK = 2


def observed_size(c: Comparison) -> FloatArray:
    """Return [C], squared length of the observed change less its sampling noise, 0 where it is all noise."""

    def compute() -> FloatArray:
        raw = np.einsum("ij,ij->i", c.observed, c.observed)
        return np.asarray(np.maximum(raw - c.s2.sum(axis=1), 0.0))

    return c.once_per_observed("hits.observed_size", compute)


def predicted_size(c: Comparison) -> FloatArray:
    """Return [C], squared length of the predicted change."""
    return c.once("hits.predicted_size", lambda: np.einsum("ij,ij->i", c.predicted, c.predicted))


def mean_ranks(values: FloatArray) -> FloatArray:
    """Return the ranks of values [n] from 1, mean ranks for values that differ by rounding only."""
    order = np.argsort(values, kind="stable")
    step = np.diff(values[order], prepend=values[order[:1]])
    # Relative to the neighbour, as sizes of one context may differ by orders of magnitude.
    codes = np.cumsum(step > ties.ROUNDING * np.abs(values[order]))
    out = np.empty(len(values))
    out[order] = rankdata(codes)
    return out


def spearman(seen: FloatArray, predicted: FloatArray) -> float:
    """Return the Spearman correlation of two vectors [n], NaN of fewer than 3 or where one is constant."""
    if len(seen) < FEWEST:
        return np.nan
    a, b = (r - r.mean() for r in (mean_ranks(seen), mean_ranks(predicted)))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(np.clip(a @ b / scale, -1.0, 1.0)) if scale > 0 else np.nan


def n_hits(n: int) -> int:
    """Return how many of `n` conditions are hits: a tenth, rounded up."""
    return int(np.ceil(HIT_SHARE * n - 1e-9))


def enrichment(seen: FloatArray, predicted: FloatArray) -> float:
    """Return the share of hits among the k predicted strongest over the share of hits among all.

    Hits are the k conditions of the largest observed size, without those of size 0. Ties share their places. NaN of a
    single condition, and where all conditions have the same observed size.

    Parameters
    ----------
    seen, predicted
        Effect sizes [n].
    """
    truth = mean_ranks(seen)
    n = len(seen)
    if n < _LEAST_FOR_A_RANK or np.ptp(truth) == 0:
        return np.nan
    k = np.asarray([n_hits(n)])
    hits = ties.largest(np.where(seen > 0, truth, 0.0)[None], k)
    picked = ties.largest(mean_ranks(predicted)[None], k)
    is_hit, is_picked = (
        np.where(s.sure, 1.0, s.tied * s.places[:, None] / max(int(s.tied.sum()), 1))[0]
        for s in (hits, picked)
    )
    # Tied conditions get their places at random on either side, whatever the other side does.
    return float((is_hit @ is_picked / k[0]) / (hits.k[0] / n))


def top_rank(seen: FloatArray, predicted: FloatArray) -> float:
    """Return the share of the other conditions predicted to be stronger than the one that is.

    Ties count one half; of several strongest ones the mean. NaN of a single condition, and where all have the same
    observed size.

    Parameters
    ----------
    seen, predicted
        Effect sizes [n].
    """
    truth = mean_ranks(seen)
    n = len(seen)
    if n < _LEAST_FOR_A_RANK or np.ptp(truth) == 0:
        return np.nan
    top = truth == truth.max()
    m = int(top.sum())
    # Of m strongest ones at the first m places the mean rank is this: they do not stand in each other's way.
    best = n - (m - 1) / 2
    return float((best - mean_ranks(predicted)[top].mean()) / (n - m))


def by_context(c: Comparison, function: Callable[[FloatArray, FloatArray], float]) -> SetStatistic:
    """Return a set statistic: the mean over contexts of a function of their observed and predicted effect sizes.

    Parameters
    ----------
    c
        The comparison.
    function
        (observed sizes [n], predicted sizes [n]) of one context's conditions -> value, NaN where undefined.
    """
    seen, predicted = observed_size(c), predicted_size(c)
    codes = c.once("hits.contexts", lambda: np.unique(c.contexts, return_inverse=True)[1])

    def statistic(positions: IntArray) -> float:
        own = codes[positions]
        number = np.bincount(own)
        values = [
            function(seen[mine], predicted[mine])
            for i in np.flatnonzero(number >= _LEAST_FOR_A_RANK)
            for mine in [positions[own == i]]
        ]
        defined = [v for v in values if np.isfinite(v)]
        return float(np.mean(defined)) if defined else np.nan

    return statistic
