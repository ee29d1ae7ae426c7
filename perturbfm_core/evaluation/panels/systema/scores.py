"""Scores of Systema on centroids (mean expression of each perturbation, [P, G])."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from perturbfm_core.evaluation import rowwise, ties
from perturbfm_core.schema import BoolArray, FloatArray, StrArray

TOP_K = 20


def top_genes(delta: FloatArray, k: int = TOP_K, names: StrArray | None = None) -> BoolArray:
    """Return bool [P, G], the `k` genes of each row that change most; fewer, where fewer change.

    Parameters
    ----------
    delta
        Change of mean expression [P, G].
    k
        Number of genes.
    names
        Gene names [G]: genes that change equally are taken by name, without names in their order.
    """
    return ties.first_by_name(ties.sizes(delta), k, names)


def pearson_from(
    truth: FloatArray, predicted: FloatArray, reference: FloatArray, mask: BoolArray | None = None
) -> FloatArray:
    """Return [P], the correlation over genes of observed and predicted change from a reference.

    Parameters
    ----------
    truth, predicted
        Mean expression [P, G].
    reference
        [G] or [P, G], e.g. the mean of train centroids.
    mask
        Genes to use [P, G]; all by default.

    Returns
    -------
    float64 [P], NaN where a side differs from the reference by a constant only.
    """
    return rowwise.pearson(predicted - reference, truth - reference, mask)


def jaccard(truth: FloatArray, predicted: FloatArray, k: int = TOP_K) -> FloatArray:
    """Return [P], the Jaccard index of the sets of `k` genes of largest observed and predicted change.

    Genes that do not change are in neither set: both shrink to the number of genes that change on either side. Ties share
    the places left: the value is the expectation over tie orders. NaN where there are no more than `k` genes or a row is
    zero.

    Parameters
    ----------
    truth, predicted
        Observed and predicted delta [P, G].
    k
        Number of genes in each set.
    """
    if truth.shape[1] <= k:
        return np.full(len(truth), np.nan)
    return ties.expected_jaccard(*ties.both_largest(truth, predicted, k))


def centroid_accuracy(
    predicted: FloatArray,
    own: FloatArray,
    others: FloatArray,
    same: BoolArray,
    *,
    shared_ties: bool = False,
) -> FloatArray:
    """Return [P], the share of other observed centroids that lie farther from a prediction than its own.

    Parameters
    ----------
    predicted, own
        Predicted and observed mean expression [P, G].
    others
        Observed candidates [Q, G].
    same
        bool [P, Q], which candidate is the condition itself.
    shared_ties
        Whether a tie counts one half; in Systema it does not count as farther.

    Returns
    -------
    float64 [P]; NaN without other candidates.
    """
    own_distance = np.sqrt(np.square(predicted - own).sum(axis=1))
    distance = cdist(predicted, others)
    # A tolerance, so that equal distances tie although they were summed in different orders.
    rounding = 1e-12 * np.maximum(own_distance, 1e-12)
    farther = ((distance > (own_distance + rounding)[:, None]) & ~same).sum(axis=1).astype(np.float64)
    if shared_ties:
        tied = np.abs(distance - own_distance[:, None]) <= rounding[:, None]
        farther += 0.5 * (tied & ~same).sum(axis=1)
    n = (~same).sum(axis=1)
    return np.asarray(np.divide(farther, n, out=np.full(len(n), np.nan), where=n > 0))


def systematic_variation(delta: FloatArray, direction: FloatArray) -> FloatArray:
    """Return [P], the cosine of each delta [P, G] with one direction [G]; NaN where either is zero.

    With deltas against the control and their mean as direction, a value near 1 means that the perturbations of a data
    set have most of their change in common.
    """
    return rowwise.cosine(delta, np.broadcast_to(direction, delta.shape))


def pairwise_cosine(delta: FloatArray) -> FloatArray:
    """Return [P (P - 1) / 2], the cosines of all pairs of rows [P, G]: the upper triangle, row by row."""
    norm = np.linalg.norm(delta, axis=1, keepdims=True)
    unit = np.divide(delta, norm, out=np.full_like(delta, np.nan), where=norm > 0)
    above: FloatArray = (unit @ unit.T)[np.triu_indices(len(delta), 1)]
    return above
