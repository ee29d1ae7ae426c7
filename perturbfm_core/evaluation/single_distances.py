"""Mean Euclidean distances of cells from matrix products in single precision.

Cells are given centred, so that their norms are of the size of their distances. Squared distances that are small beside
the norms would lose their digits in a product: they are computed from the differences of the cells. Measured on 2,000 to
18,000 genes, what is left is a relative error of at most 7e-7 per pair and 3e-7 of a mean over pairs; an E-distance, made
of four such means, is therefore known to about 1e-6 of the mean distance. Rows are added in single precision, pair by
pair, and their sums in double precision.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.schema import FloatArray

# Squared distances below this share of the norms are computed from differences, so many pairs at a time.
_CLOSE = 1e-3
_PAIRS = 2048
_BLOCK_PAIRS = 4_000_000


def squared_norms(X: FloatArray) -> FloatArray:
    """Return [n], the squared Euclidean norm of each row."""
    return np.asarray(np.einsum("ij,ij->i", X, X))


def mean_within(X: FloatArray, norm: FloatArray) -> float:
    """Return the mean distance over all pairs of rows [n, G], each with itself included."""
    n = len(X)
    if n * n <= _BLOCK_PAIRS:
        return _sum_distances(X @ X.T, norm, norm, X, X, own=True) / n**2
    total = 0.0
    step = max(1, _BLOCK_PAIRS // n)
    for start in range(0, n, step):
        # Only pairs with later rows; those beyond the block count twice.
        stop = min(n, start + step)
        part, rest = X[start:stop], X[stop:]
        total += _sum_distances(part @ part.T, norm[start:stop], norm[start:stop], part, part, own=True)
        if len(rest):
            total += 2.0 * _sum_distances(part @ rest.T, norm[start:stop], norm[stop:], part, rest)
    return total / n**2


def mean_between(X: FloatArray, x_norm: FloatArray, Y: FloatArray, y_norm: FloatArray) -> float:
    """Return the mean distance of all rows of X [n, G] from all rows of Y [m, G].

    Parameters
    ----------
    X, Y
        Cells, float32.
    x_norm, y_norm
        Their squared norms [n] and [m].
    """
    total = 0.0
    step = max(1, _BLOCK_PAIRS // max(len(Y), 1))
    for start in range(0, len(X), step):
        part = X[start : start + step]
        total += _sum_distances(part @ Y.T, x_norm[start : start + step], y_norm, part, Y)
    return total / (len(X) * len(Y))


def _sum_distances(
    D: FloatArray, x_norm: FloatArray, y_norm: FloatArray, X: FloatArray, Y: FloatArray, *, own: bool = False
) -> float:
    """Return the sum of distances, given the products D = X Y^T, which are overwritten.

    `own` is set where X and Y are the same rows, so that the diagonal is exactly zero.
    """
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y
    D *= -2.0
    D += x_norm[:, None]
    D += y_norm
    scale = float(x_norm.max() + y_norm.max())
    if own:
        np.fill_diagonal(D, scale)
    if D.min() < _CLOSE * scale:
        _repair(D, _CLOSE * scale, X, Y)
    if own:
        np.fill_diagonal(D, 0.0)
    np.sqrt(D, out=D)
    return float(D.sum(axis=1).sum(dtype=np.float64))


def _repair(D: FloatArray, limit: float, X: FloatArray, Y: FloatArray) -> None:
    """Recompute squared distances below the limit from differences; from products they lose precision."""
    rows, columns = np.nonzero(limit > D)
    for start in range(0, len(rows), _PAIRS):
        i, j = rows[start : start + _PAIRS], columns[start : start + _PAIRS]
        gap = X[i] - Y[j]
        D[i, j] = np.einsum("ij,ij->i", gap, gap)
