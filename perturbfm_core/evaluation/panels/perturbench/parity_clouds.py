"""Rounding errors of PerturBench's distances between clouds of cells, which it computes in single precision.

Squared distances come from the lengths of both cells and their product. What that leaves of the distance between two equal
cells, such as of a cell to itself, grows with their length, so that it decides how much a value may differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core.schema import FloatArray

# Rounding errors of a squared distance, as a share of the squared lengths of both cells.
_SHARE = 4 * float(np.finfo(np.float32).eps)


def mmd_noise(P: Sequence[FloatArray], R: Sequence[FloatArray]) -> FloatArray:
    """Return [I, J], the most by which the peer's `mmd` of predicted and observed clouds [n, k] may differ."""
    own, other = (np.asarray([_noise(X, X) for X in side]) for side in (P, R))
    between = np.asarray([[_noise(x, y) for y in R] for x in P])
    return np.asarray(between + 0.5 * own[:, None] + 0.5 * other[None, :])


def _noise(x: FloatArray, y: FloatArray) -> float:
    """Return the mean rounding error of the distances between all pairs of cells of two clouds."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    lengths = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y)
    squared = np.maximum(lengths - 2 * (x @ y.T), 0.0)
    return float(np.mean(np.sqrt(squared + _SHARE * lengths) - np.sqrt(squared)))
