"""Bins of genes by how much they change among the train conditions."""

from __future__ import annotations

import numpy as np

from perturbfm_core.schema import FloatArray, IntArray

_DROPPED = 0.1


def gene_scale(delta: FloatArray) -> FloatArray:
    """Return float64 [G], root mean square of train deltas [n, G] without each gene's largest tenth.

    What a gene does when it is perturbed itself is left out: it says nothing of other perturbations, and of a
    held-out one train does not show it.
    """
    squared = delta.astype(np.float64) ** 2
    kept = len(squared) - int(_DROPPED * len(squared))
    squared.partition(kept - 1, axis=0)
    out: FloatArray = np.sqrt(squared[:kept].mean(axis=0))
    return out


def gene_bins(scale: FloatArray, n_bins: int) -> IntArray:
    """Return int16 [G]: the quantile bin of each gene's scale; fewer bins where many scales are equal."""
    edges = np.unique(np.quantile(scale, np.arange(1, n_bins) / n_bins))
    codes = np.searchsorted(edges, scale, side="right")
    return np.unique(codes, return_inverse=True)[1].astype(np.int16)
