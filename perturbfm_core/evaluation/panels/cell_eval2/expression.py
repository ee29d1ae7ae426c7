"""Metrics of expression profiles: errors, unbiased errors, and discrimination of perturbations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.distance import cdist

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2.bulk import Profiles
from perturbfm_core.schema import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class ProfilePair:
    """Profiles of truth and prediction, one row per perturbation.

    Attributes
    ----------
    real, pred
        float64 [P, G].
    real_control, pred_control
        float64 [G], subtracted from the profiles of each side.
    real_correction, pred_correction
        float64 [P], see `Profiles.correction`.
    control_correction
        That of the measured control.
    mass_target
        What a profile's expression sums to.
    target
        int64 [P], column of the target gene, -1 without one.
    """

    real: FloatArray
    pred: FloatArray
    real_control: FloatArray
    pred_control: FloatArray
    real_correction: FloatArray
    pred_correction: FloatArray
    control_correction: float
    mass_target: float
    target: IntArray

    @property
    def scored_genes(self) -> FloatArray:
        """Return float64 [P], number of genes without the target."""
        return np.asarray(self.real.shape[1] - (self.target >= 0), dtype=np.float64)

    @cached_property
    def difference(self) -> FloatArray:
        """Return float64 [P, G], prediction less truth."""
        return np.asarray(self.pred - self.real)

    def without_target(self, difference: FloatArray) -> FloatArray:
        """Return float64 [P], the summed squares of differences [P, G] without the target's."""
        total = np.einsum("ij,ij->i", difference, difference)
        rows = np.flatnonzero(self.target >= 0)
        total[rows] -= difference[rows, self.target[rows]] ** 2
        return np.asarray(total)

    def per_gene(self, summed: FloatArray) -> FloatArray:
        """Return float64 [P], sums divided by the number of scored genes, NaN without any."""
        n = self.scored_genes
        return np.divide(summed, n, out=np.full_like(n, np.nan), where=n > 0)


def pair_profiles(
    real: Profiles, pred: Profiles, groups: tuple[IntArray, int], target: IntArray, *, own_control: bool
) -> ProfilePair:
    """Return the aligned profiles of two sides with the same groups.

    Parameters
    ----------
    real, pred
        Profiles of all groups of either side, in the same order.
    groups
        (perturbed groups [P], the control).
    target
        Column of each perturbation's target gene [P].
    own_control
        Whether the prediction's own control is subtracted from it, not the measured one.
    """
    rows, control = groups
    return ProfilePair(
        real.means[rows],
        pred.means[rows],
        real.means[control],
        (pred if own_control else real).means[control],
        real.correction[rows],
        pred.correction[rows],
        float(real.correction[control]),
        real.mass_target,
        target,
    )


def expr_mae(pair: ProfilePair) -> FloatArray:
    """Return [P], mean absolute difference over all genes."""
    return np.asarray(np.abs(pair.difference).mean(axis=1))


def expr_mse(pair: ProfilePair) -> FloatArray:
    """Return [P], mean squared difference over all genes."""
    return np.asarray((pair.difference**2).mean(axis=1))


def expr_real_mass_ratio(pair: ProfilePair) -> FloatArray:
    """Return [P], how much of the depth the measured profiles hold: 1 for summed counts."""
    return np.asarray(np.expm1(pair.real).sum(axis=1) / pair.mass_target)


def expr_mse_unbiased(pair: ProfilePair) -> FloatArray:
    """Return [P], mean squared difference less what sampling adds on both sides."""
    summed = pair.without_target(pair.difference)
    return pair.per_gene(summed - pair.pred_correction - pair.real_correction)


def expr_mse_unbiased_capped(pair: ProfilePair) -> FloatArray:
    """Return [P], `expr_mse_unbiased` with a bounded correction of the prediction.

    The correction is at most the truth's, and all of them together at most the spread of the predicted profiles
    around their mean.
    """
    correction = np.minimum(pair.pred_correction, pair.real_correction)
    n = pair.scored_genes
    weight = np.divide(1.0, n, out=np.zeros_like(n), where=n > 0)
    claim = float((correction * weight).sum())
    if claim > 0:
        correction = correction * min(1.0, _spread(pair, weight) / claim)
    return pair.per_gene(pair.without_target(pair.difference) - correction - pair.real_correction)


def _spread(pair: ProfilePair, weight: FloatArray) -> float:
    """Return the weighted squares around each gene's mean over the perturbations that score it, summed."""
    centred = pair.pred - pair.pred.mean(axis=0)
    first = weight @ centred
    second = np.einsum("ij,ij,i->j", centred, centred, weight)
    P, G = centred.shape
    total, count = np.full(G, weight.sum()), np.full(G, float(P))
    rows = np.flatnonzero(pair.target >= 0)
    columns = pair.target[rows]
    own = centred[rows, columns]
    np.subtract.at(first, columns, weight[rows] * own)
    np.subtract.at(second, columns, weight[rows] * own * own)
    np.subtract.at(total, columns, weight[rows])
    np.subtract.at(count, columns, 1.0)
    used = (count >= 2) & (total > 0)
    return float(np.maximum(second[used] - first[used] ** 2 / total[used], 0.0).sum())


def expr_distance_unbiased(pair: ProfilePair) -> FloatArray:
    """Return [P], mean squared effect of the truth less what sampling adds to it."""
    summed = pair.without_target(pair.real - pair.real_control)
    return pair.per_gene(summed - pair.real_correction - pair.control_correction)


def ratio_of_sums(numerator: FloatArray, denominator: FloatArray) -> float:
    """Return the sum of [P] over the sum of [P], where both are finite.

    Raises
    ------
    MetricError
        If the truth has no effect beyond sampling noise, so that nothing can be divided by it.
    """
    used = np.isfinite(numerator) & np.isfinite(denominator)
    below = float(denominator[used].sum())
    if not below > 0:
        msg = f"the truth has no effect beyond sampling noise (summed distance from the control {below:g}); it cannot be scored"
        raise MetricError(msg)
    return float(numerator[used].sum()) / below


def delta_mae(pair: ProfilePair) -> FloatArray:
    """Return [P], mean absolute difference of the effects."""
    return np.asarray(np.abs(_predicted_effect(pair) - _effect(pair)).mean(axis=1))


def delta_mse(pair: ProfilePair) -> FloatArray:
    """Return [P], mean squared difference of the effects."""
    return np.asarray(((_predicted_effect(pair) - _effect(pair)) ** 2).mean(axis=1))


def delta_pearson(pair: ProfilePair) -> FloatArray:
    """Return [P], Pearson correlation of the effects; -1 for a constant prediction, NaN for a constant truth."""
    real, pred = _effect(pair), _predicted_effect(pair)
    constant_real = (real == real[:, :1]).all(axis=1) | (real.shape[1] < 2)
    constant_pred = (pred == pred[:, :1]).all(axis=1)
    a, b = real - real.mean(axis=1, keepdims=True), pred - pred.mean(axis=1, keepdims=True)
    size = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    r = np.divide(np.einsum("ij,ij->i", a, b), size, out=np.full(len(size), -1.0), where=size > 0)
    return np.where(constant_real, np.nan, np.where(constant_pred, -1.0, np.clip(r, -1.0, 1.0)))


def _effect(pair: ProfilePair) -> FloatArray:
    return np.asarray(pair.real - pair.real_control)


def _predicted_effect(pair: ProfilePair) -> FloatArray:
    return np.asarray(pair.pred - pair.pred_control)


def discrimination(pair: ProfilePair, distance: str) -> FloatArray:
    """Return [P], how few truths are nearer to a predicted effect than its own, 1 for none; ties share places.

    No target gene of any perturbation is used.

    Parameters
    ----------
    pair
        The profiles.
    distance
        ``l1``, ``l2`` or ``cosine``.

    Raises
    ------
    MetricError
        If every gene is a target.
    """
    keep = np.ones(pair.real.shape[1], dtype=np.bool_)
    keep[pair.target[pair.target >= 0]] = False
    if not keep.any():
        msg = f"all {len(keep)} genes are targets of perturbations; none is left to tell perturbations apart"
        raise MetricError(msg)
    d = _distances(_predicted_effect(pair)[:, keep], _effect(pair)[:, keep], distance)
    own = np.diagonal(d)[:, None]
    P = len(d)
    if P < 2:
        return np.ones(P)
    place = (d < own).sum(axis=1) + ((d == own).sum(axis=1) - 1) / 2.0
    return np.asarray(1.0 - place / (P - 1))


def _distances(pred: FloatArray, real: FloatArray, distance: str) -> FloatArray:
    if distance == "l1":
        return np.asarray(cdist(pred, real, metric="cityblock"))
    products = pred @ real.T
    squares = np.einsum("ij,ij->i", pred, pred), np.einsum("ij,ij->i", real, real)
    if distance == "l2":
        return np.asarray(
            np.sqrt(np.maximum(squares[0][:, None] + squares[1][None, :] - 2.0 * products, 0.0))
        )
    norms = np.sqrt(squares[0])[:, None] * np.sqrt(squares[1])[None, :]
    similarity = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    return np.asarray(np.clip(1.0 - similarity, 0.0, 2.0))
