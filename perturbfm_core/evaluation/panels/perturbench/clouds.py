"""PerturBench's distances between groups of cells: mmd (energy kernel) and energy (E-distance).

A cloud is the matrix [n, k] of the cells of one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from perturbfm_core.evaluation.panels.perturbench.population import Moments
from perturbfm_core.schema import FloatArray

# Rows and columns of a block of distances, which fits in the cache of a core.
_ROWS, _COLUMNS = 512, 256


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def mean_distances(
    A: Sequence[FloatArray], B: Sequence[FloatArray], dtype: type[np.floating[Any]] = np.float64
) -> FloatArray:
    """Return [len(A), len(B)], the mean Euclidean distance of all pairs of cells of two clouds.

    Parameters
    ----------
    A, B
        Clouds, each [n, k].
    dtype
        Precision of the inner products.
    """
    center = B[0].mean(axis=0)
    right = np.concatenate([_augmented(b - center, dtype, first=False) for b in B])
    sizes = np.asarray([len(b) for b in B])
    starts = np.cumsum(sizes) - sizes
    buffer = np.empty((_ROWS, _COLUMNS), dtype=dtype)
    out = np.empty((len(A), len(B)))
    # One thread: sharing blocks this small among threads takes longer than multiplying them.
    with _threads().limit(limits=1, user_api="blas"), np.errstate(invalid="ignore"):
        for i, cloud in enumerate(A):
            left = _augmented(cloud - center, dtype, first=True)
            total = np.zeros(len(right))
            for r in range(0, len(left), _ROWS):
                rows = left[r : r + _ROWS]
                for c in range(0, len(right), _COLUMNS):
                    columns = right[c : c + _COLUMNS]
                    D = buffer[: len(rows), : len(columns)]
                    total[c : c + len(columns)] += _column_sums(rows, columns, D)
            out[i] = np.add.reduceat(total, starts) / (len(cloud) * sizes)
    return out


def _column_sums(rows: FloatArray, columns: FloatArray, D: FloatArray) -> FloatArray:
    """Return the sum of distances from all rows to each column; `D` is a buffer for the distances."""
    ones = np.ones(len(rows), dtype=D.dtype)
    np.sqrt(np.matmul(rows, columns.T, out=D), out=D)
    sums: FloatArray = ones @ D
    if np.isnan(sums).any():
        # The square of a distance near 0 can be rounded to a negative number.
        np.matmul(rows, columns.T, out=D)
        sums = ones @ np.sqrt(np.maximum(D, 0.0, out=D), out=D)
    return sums


def _augmented(A: FloatArray, dtype: type[np.floating[Any]], *, first: bool) -> FloatArray:
    """Return [n, k + 2] whose inner products with the other side's are squared distances."""
    # |a - b|^2 = (-2 a, |a|^2, 1) . (b, 1, |b|^2)
    squares = np.einsum("ij,ij->i", A, A, dtype=np.float64)[:, None]
    ones = np.ones_like(squares)
    parts = [-2.0 * A, squares, ones] if first else [A, ones, squares]
    return np.concatenate(parts, axis=1).astype(dtype)


def inner_distances(A: Sequence[FloatArray], dtype: type[np.floating[Any]] = np.float64) -> FloatArray:
    """Return [len(A)], the mean Euclidean distance within each cloud, over all pairs and each cell with itself."""
    out = np.empty(len(A))
    for i, cloud in enumerate(A):
        X = (cloud - cloud.mean(axis=0, dtype=np.float64)).astype(dtype)
        squares = np.einsum("ij,ij->i", X, X)
        D = squares[:, None] + squares - 2 * (X @ X.T)
        np.fill_diagonal(D, 0.0)
        out[i] = np.sqrt(np.maximum(D, 0.0, out=D), out=D).mean(dtype=np.float64)
    return out


def mmd_matrix(
    P: Sequence[FloatArray],
    R: Sequence[FloatArray],
    inner: tuple[FloatArray, FloatArray] | None = None,
    dtype: type[np.floating[Any]] = np.float64,
) -> FloatArray:
    """Return [I, J], V2's `mmd` of all pairs: mean |x - y| - mean |x - x'| / 2 - mean |y - y'| / 2.

    Parameters
    ----------
    P, R
        Predicted and observed clouds.
    inner
        Their `inner_distances`, if known.
    dtype
        Precision of the inner products.
    """
    own, other = inner or (inner_distances(P), inner_distances(R))
    return np.asarray(mean_distances(P, R, dtype) - 0.5 * own[:, None] - 0.5 * other[None, :])


def mmd(
    P: Sequence[FloatArray],
    R: Sequence[FloatArray],
    inner: tuple[FloatArray, FloatArray] | None = None,
    dtype: type[np.floating[Any]] = np.float64,
) -> FloatArray:
    """Return [C], V2's `mmd` of each predicted cloud and its observed one, at least 0 (see `mmd_matrix`).

    Parameters
    ----------
    P, R
        Predicted and observed clouds, C each.
    inner
        Their `inner_distances`, if known.
    dtype
        Precision of the inner products.
    """
    own, other = inner or (inner_distances(P, dtype), inner_distances(R, dtype))
    between = np.asarray([mean_distances([p], [r], dtype)[0, 0] for p, r in zip(P, R, strict=True)])
    return np.maximum(between - 0.5 * (own + other), 0.0)


def energy(P: Moments, R: Moments) -> FloatArray:
    """Return [C], the E-distance: 2 mean |x - y|^2 - mean |x - x'|^2 - mean |y - y'|^2 over distinct cells.

    Distances are squared Euclidean ones, and means within a cloud leave out each cell's distance to itself, so that
    the result follows from means and variances. NaN where a cloud has one cell.
    """
    # mean |x - x'|^2 over distinct cells is twice the unbiased variance; mean |x - y|^2 is the squared distance of
    # the means plus both biased variances, (1 - 1 / n) times the unbiased ones. What remains is var / n of each.
    between = np.square(P.mean - R.mean).sum(axis=1)
    noise = P.var().sum(axis=1) / P.n + R.var().sum(axis=1) / R.n
    return np.asarray(2 * (between - noise))
