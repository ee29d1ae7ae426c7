"""Moments of groups of cells as PerturBench's t-tests have them, rounding errors included.

The peer squares values in the precision of the cells and subtracts the squared mean. Where a gene is equal in all cells
of a group, that leaves a small variance, or a negative one, for which it has no score.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.perturbench.population import Blocks, Controls, Moments, Population


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
