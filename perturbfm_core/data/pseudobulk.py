"""Pseudobulk: means and variances of groups of rows, computed block by block on sparse matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.matrix import Matrix, row_blocks
from perturbfm_core.schema import FloatArray, IntArray

SHRINK_CELLS = 10.0
_BLOCK = 8192


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
    """Return float64 [n_groups, G]: sums of ``X**power`` over the rows of each group.

    Parameters
    ----------
    X
        CSR or dense [N, G]; it is never converted to dense as a whole.
    codes
        int [N], group of each row, -1 to leave it out.
    n_groups
        Number of groups.
    weights
        float [N], weight of each row (default 1).
    power
        Exponent of the values: 1 for sums, 2 for sums of squares.
    """
    # Rows are visited in order of their group, so that a block of rows spans few groups; group -1 is cut off.
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]
    out = np.zeros((n_groups, X.shape[1]))
    for block in row_blocks(len(order), _BLOCK):
        rows = order[block]
        part = X[rows]
        part = part.astype(np.float64)
        if power != 1:
            part = part.power(power) if sp.issparse(part) else part**power
        group = codes[rows]
        lo = int(group[0])
        span = int(group[-1]) - lo + 1
        w = np.ones(len(rows)) if weights is None else weights[rows]
        # A product with the [groups, rows] membership matrix sums rows by group and keeps sparse data sparse.
        indicator = sp.csr_array((w, (group - lo, np.arange(len(rows)))), shape=(span, len(rows)))
        summed = indicator @ part
        out[lo : lo + span] += summed.toarray() if sp.issparse(summed) else summed
    return out


def group_moments(
    X: Matrix, codes: IntArray, n_groups: int, weights: FloatArray | None = None
) -> GroupMoments:
    """Return count, mean and variance of each group's rows (see `GroupMoments`).

    Parameters
    ----------
    X
        CSR or dense [N, G].
    codes
        int [N], group of each row, -1 to leave it out.
    n_groups
        Number of groups K.
    weights
        float [N], weight of each row (default 1).
    """
    kept = codes >= 0
    n = np.bincount(codes[kept], minlength=n_groups).astype(np.int64)
    w: FloatArray = n.astype(np.float64)
    if weights is not None:
        w = np.bincount(codes[kept], weights=weights[kept], minlength=n_groups).astype(np.float64)
    safe = np.where(w > 0, w, 1.0)[:, None]
    mean = group_sums(X, codes, n_groups, weights) / safe
    second = group_sums(X, codes, n_groups, weights, power=2) / safe
    # E[x^2] - E[x]^2, cut at 0 because rounding can make it slightly negative.
    spread = np.maximum(second - mean**2, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Bessel's correction n / (n - 1), by the number of rows even where they have weights.
        var = np.where(n[:, None] > 1, spread * (n / np.maximum(n - 1, 1))[:, None], np.nan)
    mean[n == 0] = np.nan
    return GroupMoments(n, mean, var, w)


def shrink_variance(moments: GroupMoments, pool: IntArray) -> FloatArray:
    """Return float64 [K, G]: variances of groups, shrunk towards the pooled variance of their pool.

    `pool` (int [K]) is the pool of each group, for example its context. A group with n rows keeps its own
    variance with weight (n - 1) / (n - 1 + 10); a group of one row takes the pooled variance. NaN where all
    groups of a pool have one row.
    """
    # Means over groups are weighted by degrees of freedom, n - 1.
    dof = np.maximum(moments.n - 1, 0).astype(np.float64)[:, None]
    own = np.nan_to_num(moments.var) * dof
    n_pools = int(pool.max()) + 1 if len(pool) else 0
    total = np.zeros((n_pools, moments.mean.shape[1]))
    np.add.at(total, pool, own)
    weight = np.bincount(pool, weights=dof[:, 0], minlength=n_pools)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = np.where(weight > 0, total / weight, np.nan)
    # The pooled variance counts as much as `SHRINK_CELLS` degrees of freedom.
    out: FloatArray = (own + SHRINK_CELLS * pooled[pool]) / (dof + SHRINK_CELLS)
    return out
