"""Distances between mean expression profiles, row by row.

`S` is the mean of the stimulated (true) cells and `P` that of the imputed (predicted) cells, [..., G] over the genes of
a subset, log1p units. Every distance is 0 for equal profiles. Source: scPerturBench, which calls the distances of
pertpy 0.7.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from perturbfm_core.schema import FloatArray

ProfileDistance = Callable[[FloatArray, FloatArray], FloatArray]


def mse(S: FloatArray, P: FloatArray) -> FloatArray:
    """Return [...], the squared Euclidean distance divided by the number of genes."""
    return np.asarray(np.square(_difference(S, P)).mean(axis=-1))


def euclidean(S: FloatArray, P: FloatArray) -> FloatArray:
    """Return [...], the Euclidean distance.

    scPerturBench's ``root_mean_squared_error`` is this number, too: it is not divided by the number of genes.
    """
    return np.asarray(np.sqrt(np.square(_difference(S, P)).sum(axis=-1)))


def mean_absolute_error(S: FloatArray, P: FloatArray) -> FloatArray:
    """Return [...], the mean absolute difference over genes."""
    return np.asarray(np.abs(_difference(S, P)).mean(axis=-1))


def mmd(S: FloatArray, P: FloatArray) -> FloatArray:
    """Return [...], the squared maximum mean discrepancy of the linear kernel (V-statistic).

    With a linear kernel this is the squared Euclidean distance of the means, so no kernel matrix is needed.
    """
    return np.asarray(np.square(_difference(S, P)).sum(axis=-1))


def pearson_distance(S: FloatArray, P: FloatArray) -> FloatArray:
    """Return [...], 1 minus the Pearson correlation over genes; NaN where a profile is constant.

    For deltas (mean of the cells minus the mean of all control cells) this is 1 minus scPerturBench's PCC-delta.
    """
    s, p = (np.asarray(A, dtype=np.float64) for A in (S, P))
    return _one_minus_cosine(s - s.mean(axis=-1, keepdims=True), p - p.mean(axis=-1, keepdims=True))


def spearman_distance(S: FloatArray, P: FloatArray) -> FloatArray:
    """Return [...], 1 minus the Spearman correlation over genes (mean ranks for ties); NaN where constant."""
    return pearson_distance(stats.rankdata(S, axis=-1), stats.rankdata(P, axis=-1))


def cosine_distance(S: FloatArray, P: FloatArray) -> FloatArray:
    """Return [...], 1 minus the cosine over genes; NaN where a profile is zero."""
    return _one_minus_cosine(np.asarray(S, dtype=np.float64), np.asarray(P, dtype=np.float64))


def r2_distance(S: FloatArray, P: FloatArray) -> FloatArray:
    """Return [...], residual over total sum of squares of the true profile, 1 minus scikit-learn's R².

    Where the true profile is constant it is 0 for an equal prediction and 1 for any other, and NaN for a single gene,
    as in scikit-learn.
    """
    s = np.asarray(S, dtype=np.float64)
    residual = np.square(_difference(S, P)).sum(axis=-1)
    total = np.square(s - s.mean(axis=-1, keepdims=True)).sum(axis=-1)
    constant = np.array(residual > 0, dtype=np.float64) if s.shape[-1] > 1 else np.full(total.shape, np.nan)
    return np.asarray(np.divide(residual, total, out=constant, where=total > 0))


def _difference(S: FloatArray, P: FloatArray) -> FloatArray:
    return np.asarray(S, dtype=np.float64) - np.asarray(P, dtype=np.float64)


def _one_minus_cosine(s: FloatArray, p: FloatArray) -> FloatArray:
    norms = [np.sqrt(np.square(a).sum(axis=-1, keepdims=True)) for a in (s, p)]
    # Scaled to length 1 before the product, so that tiny deltas do not underflow.
    units = [
        np.divide(a, n, out=np.full(a.shape, np.nan), where=n > 0) for a, n in zip((s, p), norms, strict=True)
    ]
    return np.asarray(1.0 - np.clip((units[0] * units[1]).sum(axis=-1), -1.0, 1.0))


PROFILES: dict[str, ProfileDistance] = {
    "mse": mse,
    "euclidean": euclidean,
    "root_mean_squared_error": euclidean,
    "mean_absolute_error": mean_absolute_error,
    "spearman_distance": spearman_distance,
    "cosine_distance": cosine_distance,
    "r2_distance": r2_distance,
    "mmd": mmd,
}
