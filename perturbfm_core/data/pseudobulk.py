"""Pseudobulk: means and variances of groups of rows, computed block by block on sparse matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.exact_sums import ExactSums
from perturbfm_core.data.matrix import Matrix, is_stored, matrix_blocks, row_blocks
from perturbfm_core.schema import FloatArray, IntArray

SHRINK_CELLS = 10.0
# Rows of a block, values of a dense one, sums that are made at once: of rows in memory, and of rows of a file, which is
# read again for each range of groups.
_BLOCK, _DENSE, _SUMS, _STORED_SUMS = 8192, 1 << 22, 1 << 21, 1 << 25


@dataclass(frozen=True, eq=False)
class GroupMoments:
    """First two moments of groups of rows.

    Attributes
    ----------
    n
        int64 [K], rows per group.
    mean, var
        float64 [K, G]; `var` is the unbiased variance between rows, NaN where n < 2.
    weight
        float64 [K], sum of the rows' weights (n without weights).
    """

    n: IntArray
    mean: FloatArray
    var: FloatArray
    weight: FloatArray


def group_sums(
    X: Matrix, codes: IntArray, n_groups: int, weights: FloatArray | None = None, *, power: int = 1
) -> FloatArray:
    """Return float64 [n_groups, G]: sums of ``X**power`` over the rows of each group, in any order the same.

    Parameters
    ----------
    X
        CSR or dense [N, G], or rows of a file; it is never converted to dense as a whole.
    codes
        int [N], group of each row, -1 to leave it out.
    n_groups
        Number of groups.
    weights
        float [N], weight of each row (default 1).
    power
        Exponent of the values: 1 for sums, 2 for sums of squares.
    """
    out = np.zeros((n_groups, X.shape[1]))
    for groups, sums in _by_range(X, codes, n_groups, weights, (power,)):
        out[groups] = sums[0].total()
    return out


def first_and_second(
    X: Matrix, codes: IntArray, n_groups: int, weights: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return float64 [n_groups, G] twice: sums and sums of squares, from one pass over the rows.

    Parameters
    ----------
    X
        CSR or dense [N, G], or rows of a file.
    codes
        int [N], group of each row, -1 to leave it out.
    n_groups
        Number of groups.
    weights
        float [N], weight of each row (default 1).
    """
    out = np.zeros((n_groups, X.shape[1])), np.zeros((n_groups, X.shape[1]))
    for groups, sums in _by_range(X, codes, n_groups, weights, (1, 2)):
        for into, part in zip(out, sums, strict=True):
            into[groups] = part.total()
    return out


def exact_sums(
    X: Matrix,
    codes: IntArray,
    n_groups: int,
    weights: FloatArray | None = None,
    *,
    powers: tuple[int, ...] = (1, 2),
) -> tuple[ExactSums, ...]:
    """Return the sums of each power before they are rounded, which can be added to those of other rows.

    Parameters
    ----------
    X, codes, n_groups, weights
        As in `group_sums`.
    powers
        Exponents of the values.
    """
    out = tuple(ExactSums(n_groups, X.shape[1]) for _ in powers)
    _add_rows(out, X, codes, weights, powers, slice(0, n_groups))
    return out


def group_weights(codes: IntArray, n_groups: int, weights: FloatArray | None = None) -> FloatArray:
    """Return float64 [n_groups], the summed weight of each group's rows (their number without weights).

    Parameters
    ----------
    codes
        int [N], group of each row, -1 to leave it out.
    n_groups
        Number of groups.
    weights
        float [N], weight of each row.
    """
    kept = codes >= 0
    if weights is None:
        return np.bincount(codes[kept], minlength=n_groups).astype(np.float64)
    sums = ExactSums(n_groups, 1)
    sums.add(np.asarray(weights, dtype=np.float64)[kept][:, None], codes[kept])
    return sums.total()[:, 0]


def group_moments(
    X: Matrix, codes: IntArray, n_groups: int, weights: FloatArray | None = None
) -> GroupMoments:
    """Return count, mean and variance of each group's rows (see `GroupMoments`).

    Parameters
    ----------
    X
        CSR or dense [N, G], or rows of a file.
    codes
        int [N], group of each row, -1 to leave it out.
    n_groups
        Number of groups.
    weights
        float [N], weight of each row (default 1).
    """
    n = np.bincount(codes[codes >= 0], minlength=n_groups).astype(np.int64)
    w = group_weights(codes, n_groups, weights)
    mean, var = np.empty((n_groups, X.shape[1])), np.empty((n_groups, X.shape[1]))
    for groups, (first, second) in _by_range(X, codes, n_groups, weights, (1, 2)):
        moments = moments_of_sums(n[groups], w[groups], first, second)
        mean[groups], var[groups] = moments.mean, moments.var
    return GroupMoments(n, mean, var, w)


def moments_of_sums(
    n: IntArray, w: FloatArray, first: ExactSums, second: ExactSums, start: int = 0
) -> GroupMoments:
    """Return the moments of groups of which the exact sums are known.

    Parameters
    ----------
    n, w
        [K], rows and summed weight of each group.
    first, second
        Sums of values and of their squares, of these groups among others.
    start
        Position of the first of these groups in the sums.
    """
    width = first.shape[1]
    mean, var = np.empty((len(n), width)), np.empty((len(n), width))
    for part in row_blocks(len(n), max(_SUMS // max(width, 1), 1)):
        there = slice(part.start + start, part.stop + start)
        moments = moments_of(n[part], w[part], first.total(there), second.total(there))
        mean[part], var[part] = moments.mean, moments.var
    return GroupMoments(n, mean, var, w)


def moments_of(n: IntArray, w: FloatArray, first: FloatArray, second: FloatArray) -> GroupMoments:
    """Return the moments of groups of which the sums are known.

    Parameters
    ----------
    n, w
        [K], rows and summed weight of each group.
    first, second
        float64 [K, G], sums of values and of their squares.
    """
    safe = np.where(w > 0, w, 1.0)[:, None]
    mean = first / safe
    # E[x^2] - E[x]^2, cut at 0 because rounding can make it slightly negative.
    spread = np.maximum(second / safe - mean**2, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Bessel's correction n / (n - 1), by the number of rows even where they have weights.
        var = np.where(n[:, None] > 1, spread * (n / np.maximum(n - 1, 1))[:, None], np.nan)
    mean[n == 0] = np.nan
    return GroupMoments(n, mean, var, w)


def _by_range(
    X: Matrix, codes: IntArray, n_groups: int, weights: FloatArray | None, powers: tuple[int, ...]
) -> Iterator[tuple[slice, tuple[ExactSums, ...]]]:
    """Yield (range of groups, their sums of each power): as many groups at once as memory is meant for."""
    width = max(X.shape[1], 1)
    step = max((_STORED_SUMS if is_stored(X) else _SUMS) // width, 1)
    for start in range(0, n_groups, step):
        groups = slice(start, min(start + step, n_groups))
        sums = tuple(ExactSums(groups.stop - start, X.shape[1]) for _ in powers)
        _add_rows(sums, X, codes, weights, powers, groups)
        yield groups, sums


def _add_rows(
    sums: tuple[ExactSums, ...],
    X: Matrix,
    codes: IntArray,
    weights: FloatArray | None,
    powers: tuple[int, ...],
    groups: slice,
) -> None:
    for part, rows in _parts(X, codes, groups):
        if sp.issparse(part) and not part.has_canonical_format:
            part.sum_duplicates()
        for into, power in zip(sums, powers, strict=True):
            into.add(
                part, codes[rows] - groups.start, None if weights is None else weights[rows], power=power
            )


def _parts(X: Matrix, codes: IntArray, groups: slice) -> Iterator[tuple[Matrix, IntArray]]:
    """Yield (some rows of X whose code is in a range, their positions)."""
    inside = (codes >= groups.start) & (codes < groups.stop)
    if is_stored(X):
        # In the order of the file, which is read once.
        for block, part in matrix_blocks(X):
            rows = np.flatnonzero(inside[block])
            if len(rows):
                yield (part if len(rows) == part.shape[0] else part[rows]), rows + block.start
        return
    # In the order of the groups, so that the sums that are added to lie close together.
    rows = np.flatnonzero(inside)
    rows = rows[np.argsort(codes[rows], kind="stable")]
    size = _BLOCK if sp.issparse(X) else max(min(_BLOCK, _DENSE // max(X.shape[1], 1)), 1)
    for block in row_blocks(len(rows), size):
        yield X[rows[block]], rows[block]


def shrink_variance(moments: GroupMoments, pool: IntArray) -> FloatArray:
    """Return float64 [K, G]: variances of groups, shrunk towards the pooled variance of their pool.

    `pool` (int [K]) is the pool of each group, for example its context. A group with n rows keeps its own
    variance with weight (n - 1) / (n - 1 + 10); a group of one row takes the pooled variance. NaN where all
    groups of a pool have one row.
    """
    # Means over groups are weighted by degrees of freedom, n - 1.
    dof = np.maximum(moments.n - 1, 0).astype(np.float64)[:, None]
    n_pools = int(pool.max()) + 1 if len(pool) else 0
    total = np.zeros((n_pools, moments.mean.shape[1]))
    blocks = row_blocks(len(pool), max(_SUMS // max(moments.mean.shape[1], 1), 1))
    for part in blocks:
        np.add.at(total, pool[part], np.nan_to_num(moments.var[part]) * dof[part])
    weight = np.bincount(pool, weights=dof[:, 0], minlength=n_pools)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = np.where(weight > 0, total / weight, np.nan)
    out = np.empty(moments.mean.shape)
    for part in blocks:
        own = np.nan_to_num(moments.var[part]) * dof[part]
        # The pooled variance counts as much as `SHRINK_CELLS` degrees of freedom.
        out[part] = (own + SHRINK_CELLS * pooled[pool[part]]) / (dof[part] + SHRINK_CELLS)
    return out
