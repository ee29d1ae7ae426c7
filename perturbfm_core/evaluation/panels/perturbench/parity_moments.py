"""Moments of groups of cells as PerturBench's t-tests and its scaling have them, rounding errors included.

The peer squares values in the precision of the cells and subtracts the squared mean. Where a gene is equal in all cells
of a group, that leaves a small variance, or a negative one, for which it has no score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.perturbench.aggregate import Version
from perturbfm_core.evaluation.panels.perturbench.population import (
    Blocks,
    Controls,
    Matrix,
    Moments,
    Population,
    dense,
)
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# A share of the mean square below which a variance is rounding.
_ROUNDING = 1e-14


def as_tested(population: Population) -> Population:
    """Return the same groups and controls with the peer's moments."""
    controls = replace(population.controls)
    controls.__dict__["moments"] = _moments(controls.block, controls.n)
    out = replace(population, controls=controls)
    out.__dict__["moments"] = _moments(out.block, len(out))
    return out


def in_precision(controls: Controls, dtype: np.dtype[Any]) -> Controls:
    """Return controls whose cells are of a wider type; the same object where they are already."""
    if not controls.n or controls.block(0).dtype == dtype:
        return controls
    return Controls(lambda v: controls.block(v).astype(dtype), controls.n)


def as_scaled(population: Population, by: Population | None, version: Version, most: float) -> FloatArray:
    """Return [K, G], `aggregate.scaled` in the peer's precision.

    Parameters
    ----------
    population, by, version, most
        See `aggregate.scaled`.
    """
    out = np.full((len(population), population.block(0).shape[1]), np.nan)
    for groups, blocks in _scopes(population, by, version):
        every = [_Part(X) for X in blocks]
        n = sum(part.n for part in every)
        mean: FloatArray = np.sum([part.total for part in every], axis=0) / n
        var: FloatArray = np.sum([part.squares for part in every], axis=0) / n - mean**2
        with np.errstate(invalid="ignore"):
            sd = np.sqrt(var * (n / (n - 1)) if n > 1 else var)
        sd[sd == 0] = 1
        for k in groups:
            out[k] = _scaled_mean(population.block(k), mean, sd, most)
    return out


def rounding_in_tests(population: Population) -> BoolArray:
    """Return bool [K], whether a variance that the test of a group divides by is a rounding error.

    The peer adds up the cells of a sparse matrix in as many parts as it has threads. In double precision the variance of a
    gene that is equal in all cells, which should be 0, depends on them; below 0 the peer has no score.
    """
    of_controls = _equal(map(population.controls.block, range(population.controls.n)))
    return _equal(map(population.block, range(len(population)))) | of_controls[population.covariate]


def rounding_in_scaling(population: Population, by: Population | None, version: Version) -> BoolArray:
    """Return bool [K], whether a variance that a group is scaled by is a rounding error (see `rounding_in_tests`).

    Parameters
    ----------
    population, by, version
        See `aggregate.scaled`.
    """
    out = np.zeros(len(population), dtype=np.bool_)
    for groups, blocks in _scopes(population, by, version):
        if sp.issparse(blocks[0]):
            every = sp.vstack(blocks, format="csr")
            out[groups] = _equal([every]).any()
    return out


def _scopes(
    population: Population, by: Population | None, version: Version
) -> Iterator[tuple[IntArray, list[Matrix]]]:
    """Yield the groups that are scaled together, and the cells by which they are."""
    whole = population if by is None else by
    for scope in [None] if version == "V1" else np.unique(population.covariate).tolist():
        groups = [k for k, v in enumerate(whole.covariate) if scope is None or v == scope]
        controls = [v for v in range(whole.controls.n) if scope is None or v == scope]
        blocks = [*map(whole.block, groups), *map(whole.controls.block, controls)]
        here = np.flatnonzero((population.covariate == scope) | (scope is None))
        yield here, [X for X in blocks if X.shape[0]]


def _equal(blocks: Iterable[Matrix]) -> BoolArray:
    """Return bool [K], whether a gene is equal in all cells of a group, in a sparse matrix of double precision."""
    out = []
    for X in blocks:
        some = False
        if sp.issparse(X) and X.dtype == np.float64 and X.shape[0]:
            mean = np.asarray(X.mean(axis=0)).ravel()
            square = np.asarray(X.multiply(X).mean(axis=0)).ravel()
            some = bool(((square > 0) & (np.abs(square - mean**2) <= _ROUNDING * square)).any())
        out.append(some)
    return np.asarray(out, dtype=np.bool_)


class _Part:
    """Number of cells of a block, and the sums of their values and of their squares."""

    def __init__(self, block: Matrix) -> None:
        X = dense(block)
        self.n = len(X)
        self.total: FloatArray = X.sum(axis=0, dtype=np.float64)
        self.squares: FloatArray = (X * X).sum(axis=0, dtype=np.float64)


def _scaled_mean(block: Matrix, mean: FloatArray, sd: FloatArray, most: float) -> FloatArray:
    X = dense(block)
    # A dense matrix is centred and scaled in place, so in its own precision; a sparse one becomes one of double precision.
    own = X.dtype if X.dtype.kind == "f" and not sp.issparse(block) else np.dtype(np.float64)
    Z = ((X - mean).astype(own) / sd).astype(own)
    return np.asarray(np.clip(Z, -most, most).mean(axis=0), dtype=np.float64)


def _moments(block: Blocks, n_groups: int) -> Moments:
    sizes, means, spreads = [], [], []
    for k in range(n_groups):
        X = block(k)
        n, G = X.shape
        if sp.issparse(X):
            mean, square = (
                np.bincount(X.indices, weights=values.astype(np.float64), minlength=G) / max(n, 1)
                for values in (X.data, X.data * X.data)
            )
        else:
            mean, square = (A.sum(axis=0, dtype=np.float64) / max(n, 1) for A in (X, X * X))
        spread = square - mean**2
        sizes.append(n)
        means.append(mean)
        spreads.append(np.where(spread < 0, np.nan, spread))
    return Moments(np.asarray(sizes, dtype=np.int64), np.asarray(means), np.asarray(spreads))
