"""Bins of genes by the size of their responses in the training conditions."""

from __future__ import annotations

import numpy as np

from perturbfm_core.schema import FloatArray, IntArray

_DROPPED = 0.1


def gene_scale(delta: FloatArray) -> FloatArray:
    """Return float64 [G], root mean square of training deltas [n, G] without the largest 10 % of each gene.

    The largest values of a gene are often those of its own perturbation. These say nothing about its response
    to other perturbations, and training lacks them for a held-out gene.
    """
    squared = delta.astype(np.float64) ** 2
    # A partial sort per gene: the first `kept` rows then hold the smallest squares.
    kept = len(squared) - int(_DROPPED * len(squared))
    squared.partition(kept - 1, axis=0)
    out: FloatArray = np.sqrt(squared[:kept].mean(axis=0))
    return out


def gene_bins(scale: FloatArray, n_bins: int) -> IntArray:
    """Return int16 [G], the quantile bin of each gene's scale [G]; fewer bins if many scales are equal."""
    edges = np.unique(np.quantile(scale, np.arange(1, n_bins) / n_bins))
    codes = np.searchsorted(edges, scale, side="right")
    return np.unique(codes, return_inverse=True)[1].astype(np.int16)
