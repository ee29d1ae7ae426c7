"""References and baselines of Systema: means of train centroids.

A centroid is the mean expression of the cells of one condition.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core.data.condition import pert_parts
from perturbfm_core.schema import FloatArray, IntArray


def perturbed_reference(centroids: FloatArray) -> FloatArray:
    """Return [G], the unweighted mean of train centroids [T, G], which scores subtract as the reference."""
    return np.asarray(centroids.mean(axis=0))


def nonctl_mean(centroids: FloatArray, n: IntArray) -> FloatArray:
    """Return [G], the mean over all perturbed train cells; `n` is the number of cells of each centroid [T]."""
    return np.asarray(n @ centroids / n.sum())


def matching_mean(
    perts: Sequence[str], train_perts: Sequence[str], centroids: FloatArray, fallback: FloatArray
) -> FloatArray:
    """Return [P, G]: the mean of the train centroids of a perturbation's parts.

    Parameters
    ----------
    perts
        Perturbations to predict, parts joined with ``+``.
    train_perts
        Perturbation of each train centroid [T]; several centroids of one are averaged.
    centroids
        Mean expression (or delta) of the train conditions [T, G].
    fallback
        [G] or [P, G], used for a part that train lacks; `nonctl_mean` in Systema.

    Notes
    -----
    The parts are averaged, not summed: as a delta, this halves the additive effect of a combination of two.
    Systema defines it for one context and one treatment of each perturbation, by the name alone, and is silent
    about doses, times and covariates; centroids that differ in these are averaged here. The baseline `matching_mean`
    looks a part up with them first.
    """
    labels = np.asarray(train_perts, dtype=np.str_)
    known = {str(pert): centroids[labels == pert].mean(axis=0) for pert in np.unique(labels)}
    spare = np.broadcast_to(fallback, (len(perts), centroids.shape[1]))
    out = np.empty((len(perts), centroids.shape[1]))
    for i, pert in enumerate(perts):
        parts = [known.get(part, spare[i]) for part in pert_parts(pert)]
        out[i] = np.mean(parts, axis=0) if parts else spare[i]
    return out
