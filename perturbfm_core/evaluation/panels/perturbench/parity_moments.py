"""Moments of groups of cells as PerturBench's t-tests and its scaling have them, rounding errors included.

The peer squares values in the precision of the cells and subtracts the squared mean. Where a gene is equal in all cells
of a group, that leaves a small variance, or a negative one, for which it has no score.
"""

from __future__ import annotations

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
from perturbfm_core.schema import FloatArray


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
    whole = population if by is None else by
    out = np.full((len(population), population.block(0).shape[1]), np.nan)
    scopes = [None] if version == "V1" else np.unique(population.covariate).tolist()
    for scope in scopes:
        groups = [k for k, v in enumerate(whole.covariate) if scope is None or v == scope]
        controls = [v for v in range(whole.controls.n) if scope is None or v == scope]
        blocks = [*(whole.block(k) for k in groups), *(whole.controls.block(v) for v in controls)]
        every = [_Part(X) for X in blocks if X.shape[0]]
        n = sum(part.n for part in every)
        mean: FloatArray = np.sum([part.total for part in every], axis=0) / n
        var: FloatArray = np.sum([part.squares for part in every], axis=0) / n - mean**2
        with np.errstate(invalid="ignore"):
            sd = np.sqrt(var * (n / (n - 1)) if n > 1 else var)
        sd[sd == 0] = 1
        for k, v in enumerate(population.covariate):
            if scope is None or v == scope:
                out[k] = _scaled_mean(population.block(k), mean, sd, most)
    return out


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
