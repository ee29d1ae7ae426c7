"""Distances between groups of cells: E-distance and the symmetric Gaussian divergence.

Source: scPerturBench, which calls the distances of pertpy 0.7 with the stimulated (true) cells first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbfm_core.evaluation.single_distances import squared_norms
from perturbfm_core.schema import FloatArray

_KL_EPSILON = 1e-8
# Genes that are summed at once: they stay in the cache of a core.
_GENES = 256


def squared_distances(
    X: FloatArray, Y: FloatArray, x2: FloatArray | None = None, y2: FloatArray | None = None
) -> FloatArray:
    """Return [n, m], squared Euclidean distances of rows in the precision of the inputs, never negative.

    Parameters
    ----------
    X, Y
        Cells [n, G] and [m, G]; the same array for both gives an exactly zero diagonal.
    x2, y2
        Their squared norms [n] and [m], if known.
    """
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y
    x2 = squared_norms(X) if x2 is None else x2
    y2 = squared_norms(Y) if y2 is None else y2
    D = X @ Y.T
    D *= -2.0
    D += x2[:, None]
    D += y2[None, :]
    np.maximum(D, 0.0, out=D)
    if X is Y:
        np.fill_diagonal(D, 0.0)
    return np.asarray(D)


def mean_distance(D: FloatArray) -> float:
    """Return the mean Euclidean distance from a matrix of squared distances, including a zero diagonal."""
    return float(np.sqrt(D).mean())


def edistance(between: float, within_true: float, within_predicted: float) -> float:
    """Return the E-distance: 2 between - within_true - within_predicted, of Euclidean (not squared) distances.

    Parameters
    ----------
    between
        Mean distance between true and predicted cells.
    within_true, within_predicted
        Mean distance within each group over all pairs, each cell with itself included (V-statistic).
    """
    return 2.0 * between - within_true - within_predicted


@dataclass(frozen=True, eq=False)
class Spread:
    """Mean and standard deviation (ddof 0) of each gene over cells, in the precision of the cells.

    Attributes
    ----------
    mean, std
        [G].
    """

    mean: FloatArray
    std: FloatArray


def spread(X: FloatArray) -> Spread:
    """Return the spread of cells [n, G].

    Each gene is summed as a contiguous vector, as by pertpy. The order of summation decides how much rounding noise
    the deviation of a constant gene has, and with it the divergence.
    """
    parts = []
    # As `std` does, whole numbers in double precision.
    dtype = X.dtype if X.dtype.kind == "f" else np.dtype(np.float64)
    for start in range(0, max(X.shape[1], 1), _GENES):
        T = np.array(X[:, start : start + _GENES].T, order="C", dtype=dtype)
        mean = T.mean(axis=1, keepdims=True)
        # In place, what `std` does: the same digits in three quarters of the time.
        T -= mean
        np.square(T, out=T)
        parts.append((mean[:, 0], np.sqrt(T.mean(axis=1))))
    return Spread(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def sym_kldiv(true: Spread, predicted: Spread) -> float:
    """Return log2(d + 1), d the mean over genes of KL(true || predicted) + KL(predicted || true).

    Every gene is taken as Gaussian, with 1e-8 added to its standard deviation. A gene that is constant on one side
    only therefore gives a term of up to about 1e15.
    """
    return float(np.log2(mean_kldiv(true, predicted) + 1.0))


def mean_kldiv(true: Spread, predicted: Spread) -> float:
    """Return the mean over genes of the symmetric divergence, before the logarithm."""
    gap = true.mean.astype(np.float64) - predicted.mean.astype(np.float64)
    s = true.std.astype(np.float64) + _KL_EPSILON
    p = predicted.std.astype(np.float64) + _KL_EPSILON
    # KL divergence of Gaussians: log(p / s) + (s^2 + gap^2) / (2 p^2) - 1/2, in nats.
    forward = np.log(p / s) + (s**2 + gap**2) / (2 * p**2) - 0.5
    backward = np.log(s / p) + (p**2 + gap**2) / (2 * s**2) - 0.5
    return float(np.mean(forward + backward))
