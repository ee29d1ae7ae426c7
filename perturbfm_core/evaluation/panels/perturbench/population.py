"""Groups of cells by covariate and perturbation, with the controls of their covariates, read one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.schema import FloatArray, IntArray

Matrix = Any  # scipy CSR or dense ndarray; scipy ships no types
Blocks = Callable[[int], Matrix]

# A spread below this share of the squared mean is rounding in single precision, not variance.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Moments:
    """First two moments of groups of cells.

    Attributes
    ----------
    n
        int64 [K], cells.
    mean
        float64 [K, G].
    spread
        float64 [K, G], variance with ddof = 0; exactly 0 for genes that do not vary.
    """

    n: IntArray
    mean: FloatArray
    spread: FloatArray

    def var(self, ddof: int = 1) -> FloatArray:
        """Return float64 [K, G], the variance; NaN where a group has no more than `ddof` cells."""
        n = self.n[:, None].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(n > ddof, self.spread * (n / (n - ddof)), np.nan))

    def pooled(self, codes: IntArray, n_pools: int) -> Moments:
        """Return the moments of unions of groups; `codes` [K] gives the union that each group belongs to."""
        n = np.bincount(codes, weights=self.n, minlength=n_pools)[:, None]
        total = np.zeros((n_pools, self.mean.shape[1]))
        np.add.at(total, codes, self.mean * self.n[:, None])
        mean = total / np.maximum(n, 1)
        # Variance of a union: within groups plus between their means.
        inner = np.zeros_like(total)
        np.add.at(inner, codes, (self.spread + (self.mean - mean[codes]) ** 2) * self.n[:, None])
        return Moments(n[:, 0].astype(np.int64), mean, _flush(inner / np.maximum(n, 1), mean))


def dense(X: Matrix, out: FloatArray | None = None) -> FloatArray:
    """Return a block as a dense array, written to `out` if given."""
    if not sp.issparse(X):
        if out is None:
            return np.asarray(X)
        out[...] = X
        return out
    if out is None:
        return np.asarray(X.toarray())
    out[...] = X.toarray()
    return out


def _flush(spread: FloatArray, mean: FloatArray) -> FloatArray:
    return np.asarray(np.where(spread > _ROUNDING * mean**2, spread, 0.0))


def moments_of(block: Blocks, n_groups: int) -> Moments:
    """Return the moments of groups that `block` gives one at a time, CSR or dense [n, G]."""
    sizes, means, spreads = [], [], []
    for k in range(n_groups):
        X = block(k)
        n, G = X.shape
        if sp.issparse(X):
            data = X.data.astype(np.float64)
            total = np.bincount(X.indices, weights=data, minlength=G)
            second = np.bincount(X.indices, weights=np.square(data, out=data), minlength=G)
            mean = total / max(n, 1)
            with np.errstate(invalid="ignore"):
                spread = second / max(n, 1) - mean**2
        else:
            # Relative to the first cell, so that the mean is not lost to cancellation in single precision.
            first = X[:1].astype(np.float64).reshape(-1) if n else np.zeros(G)
            first = np.where(np.isfinite(first), first, 0.0)
            ones = np.ones(n)
            D = X - first
            # The mean of infinite values is infinite, their spread undefined.
            with np.errstate(invalid="ignore"):
                mean = ones @ D / max(n, 1)
                spread = np.einsum("ij,ij->j", D, D) / max(n, 1) - mean**2
            mean = mean + first
        sizes.append(n)
        means.append(mean)
        spreads.append(_flush(spread, mean))
    return Moments(np.asarray(sizes, dtype=np.int64), np.asarray(means), np.asarray(spreads))


def clipped_mean(X: Matrix, low: FloatArray, high: FloatArray) -> FloatArray:
    """Return float64 [G], the mean over cells of values clipped to [low, high] gene by gene.

    Parameters
    ----------
    X
        Cells [n, G], CSR or dense.
    low, high
        Bounds of each gene [G].
    """
    n, G = X.shape
    if not sp.issparse(X):
        return np.asarray(np.clip(X, low, high).mean(axis=0, dtype=np.float64))
    values = np.clip(X.data, low[X.indices], high[X.indices])
    total = np.bincount(X.indices, weights=values, minlength=G)
    zeros = n - np.bincount(X.indices, minlength=G)
    return np.asarray((total + zeros * np.clip(0.0, low, high)) / n)


@dataclass(frozen=True, eq=False)
class Controls:
    """Control cells of each covariate combination.

    Attributes
    ----------
    block
        (covariate combination) -> CSR or dense [n, G], log1p expression of its control cells.
    n
        Number of covariate combinations V.
    """

    block: Blocks
    n: int

    @cached_property
    def moments(self) -> Moments:
        """Return their moments [V, G]."""
        return moments_of(self.block, self.n)


@dataclass(frozen=True, eq=False)
class Population:
    """Groups of predicted or observed cells, with the controls that they are compared with.

    Attributes
    ----------
    block
        (group) -> CSR or dense [n, G], log1p expression of its cells.
    covariate
        int64 [K], covariate combination of each group.
    controls
        The controls that the groups are compared with; several populations may share them.
    """

    block: Blocks
    covariate: IntArray
    controls: Controls

    def __len__(self) -> int:
        return len(self.covariate)

    @cached_property
    def moments(self) -> Moments:
        """Return the moments of the groups [K, G]."""
        return moments_of(self.block, len(self))


def table_population(
    X: Matrix,
    group: IntArray,
    covariate: IntArray,
    n_groups: int,
    controls: Controls | None = None,
    *,
    n_covariates: int | None = None,
) -> Population:
    """Return the population of one cell table.

    Parameters
    ----------
    X
        CSR or dense [N, G].
    group
        int [N], (covariate, perturbation) group of each cell, -1 for controls.
    covariate
        int [N], covariate combination of each cell.
    n_groups
        Number of groups; each must have a cell.
    controls
        Controls to compare with instead of the table's own (as in PerturBench's test step).
    n_covariates
        Number of covariate combinations, where not all of them are in the table.
    """
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(n_groups + 1))
    of_group = np.asarray([covariate[order[a]] for a in bounds[:-1]], dtype=np.int64)
    sorted_rows = bool(np.all(order[bounds[0] :] == np.arange(bounds[0], len(order))))

    def block(k: int) -> Matrix:
        rows = slice(bounds[k], bounds[k + 1])
        return X[rows] if sorted_rows else X[order[rows]]

    if controls is None:
        n = int(covariate.max()) + 1 if n_covariates is None else n_covariates
        mine = [np.flatnonzero((group < 0) & (covariate == v)) for v in range(n)]
        controls = Controls(lambda v: X[mine[v]], len(mine))
    return Population(block, of_group, controls)
