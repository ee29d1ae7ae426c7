"""Energy distances between each perturbation's cells and the controls, with plain Euclidean distances."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.schema import FloatArray

_CLOSE = 1e-3
_PAIRS = 2048
_BLOCK_PAIRS = 4_000_000


class ControlDistances:
    """The control cells, centred once, and the mean distance among them.

    Distances come from matrix products in single precision after centring; those of pairs too close for that precision
    are computed from the differences of the cells.

    Parameters
    ----------
    X
        Control cells [n, G], dense.
    within
        The mean distance among the cells, where it is known.
    """

    def __init__(self, X: FloatArray, within: float | None = None) -> None:
        self.center = X.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.X = X.astype(np.float32) - self.center
        self.norm = _norms(self.X)
        self.within = mean_within(self.X, self.norm) if within is None else within


def energy_distances(groups: CellGroups, controls: ControlDistances) -> FloatArray:
    """Return float64 [P]: 2 mean |x - y| - mean |x - x'| - mean |y - y'|, x of the group, y controls.

    Means are over all pairs, a cell with itself included (V-statistic).
    """
    out = np.empty(len(groups))
    for i in range(len(groups)):
        X = groups.dense(i) - controls.center
        norm = _norms(X)
        between = _sum_between(X, norm, controls.X, controls.norm) / (len(X) * len(controls.X))
        out[i] = 2.0 * between - mean_within(X, norm) - controls.within
    return out


def literal_energy_distances(groups: CellGroups, controls: FloatArray) -> FloatArray:
    """Return `energy_distances` [P] with distances and means in single precision, as in cell-eval."""
    from sklearn.metrics import pairwise_distances

    def mean_distance(*matrices: FloatArray) -> Any:
        return pairwise_distances(*matrices).mean()

    within = mean_distance(controls)
    cells = [groups.dense(i) for i in range(len(groups))]
    return np.asarray(
        [2 * mean_distance(X, controls) - mean_distance(X) - within for X in cells], dtype=np.float64
    )


def mean_within(X: FloatArray, norm: FloatArray) -> float:
    """Return the mean distance over all pairs of rows [n, G], each with itself included."""
    n = len(X)
    if n * n <= _BLOCK_PAIRS:
        return _sum_squares(X @ X.T, norm, norm, X, X, own=0) / n**2
    total = 0.0
    step = max(1, _BLOCK_PAIRS // n)
    for start in range(0, n, step):
        # Only pairs with later rows; those beyond the block count twice.
        stop = min(n, start + step)
        part, rest = X[start:stop], X[stop:]
        total += _sum_squares(part @ part.T, norm[start:stop], norm[start:stop], part, part, own=0)
        if len(rest):
            total += 2.0 * _sum_squares(part @ rest.T, norm[start:stop], norm[stop:], part, rest)
    return total / n**2


def _sum_between(X: FloatArray, x_norm: FloatArray, Y: FloatArray, y_norm: FloatArray) -> float:
    total = 0.0
    step = max(1, _BLOCK_PAIRS // max(len(Y), 1))
    for start in range(0, len(X), step):
        part = X[start : start + step]
        total += _sum_squares(part @ Y.T, x_norm[start : start + step], y_norm, part, Y)
    return total


def _norms(X: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("ij,ij->i", X, X))


def _sum_squares(
    D: FloatArray,
    x_norm: FloatArray,
    y_norm: FloatArray,
    X: FloatArray,
    Y: FloatArray,
    own: int | None = None,
) -> float:
    """Return the sum of distances, given the products D = X Y^T, which are overwritten.

    `own` is given where X and Y are the same rows, so that the diagonal is exactly zero.
    """
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y
    D *= -2.0
    D += x_norm[:, None]
    D += y_norm
    scale = float(x_norm.max() + y_norm.max())
    if own is not None:
        np.fill_diagonal(D, scale)
    if D.min() < _CLOSE * scale:
        _repair(D, _CLOSE * scale, X, Y)
    if own is not None:
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
