"""Negative and positive controls, the range between them, and scores on it."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from perturbfm_core.evaluation.panels.calibrated.scores import KINDS
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

EPSILON = 1e-6
MIN_RANGE = 0.1
RESISTANT = 0.5
HALF_SEED = 0


def first_half(cells: Iterable[bytes], seed: int = HALF_SEED) -> BoolArray:
    """Return bool [n], a fixed half of a condition's cells, the odd one included.

    A cell's place is the seeded hash of what identifies it, so that the halves do not depend on row order.
    """
    salt = seed.to_bytes(8, "little")
    places = [blake2b(cell, digest_size=16, salt=salt).digest() for cell in cells]
    order = sorted(range(len(places)), key=places.__getitem__)
    out = np.zeros(len(places), dtype=np.bool_)
    out[order[: (len(order) + 1) // 2]] = True
    return out


def interpolated(duplicate: FloatArray, train_mean: FloatArray, p: FloatArray) -> FloatArray:
    """Return [C, G], the positive control: the duplicate as far as a gene is certain, else the train mean.

    Parameters
    ----------
    duplicate
        Mean of the second half of each condition's cells [C, G].
    train_mean
        Mean of the train conditions [G] or [C, G].
    p
        p-value of each gene [C, G] from the first half, unadjusted; NaN counts as 1.
    """
    alpha = 1.0 - np.nan_to_num(p, nan=1.0)
    return np.asarray(alpha * duplicate + (1.0 - alpha) * train_mean)


def dynamic_range(name: str, negative: FloatArray, positive: FloatArray) -> FloatArray:
    """Return [C] in [-1, 1], how far the positive control is from the negative one on the way to perfection."""
    if KINDS[name].direction == "max":
        share = (positive - negative) / (1.0 - negative + EPSILON)
    else:
        share = (negative - positive) / (negative + EPSILON)
    return np.clip(share, -1.0, 1.0)


def calibrated_parts(
    name: str, value: FloatArray, negative: FloatArray, positive: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return (numerator, denominator), each [C], of the score that is 0 at the negative and 1 at the positive control.

    NaN where the dynamic range fraction is below 0.1 or anything is undefined.
    """
    sign = 1.0 if KINDS[name].direction == "max" else -1.0
    gained, possible = sign * (value - negative), sign * (positive - negative)
    ok = (
        np.isfinite(gained)
        & (np.nan_to_num(dynamic_range(name, negative, positive), nan=-1.0) >= MIN_RANGE)
        & (possible > 0)
    )
    return np.where(ok, gained, np.nan), np.where(ok, possible, np.nan)


def saturation(control: FloatArray, baselines: FloatArray, positive: FloatArray) -> FloatArray:
    """Return [C], the share of the range from control mean to positive control that the best baseline covers.

    Parameters
    ----------
    control, positive
        Error of the control mean and of the positive control [C].
    baselines
        Errors of simple baselines [B, C]; the best of them counts for each condition.

    Returns
    -------
    At least 0 (the control mean is a baseline), above 1 where a baseline beats the duplicate; NaN where the
    range is below a tenth of the control's error.
    """
    best = np.minimum(np.fmin.reduce(np.vstack([control, baselines]), axis=0), control)
    span = control - positive
    wide = np.nan_to_num(dynamic_range("wmse", control, positive), nan=-1.0) >= MIN_RANGE
    return np.asarray(np.divide(control - best, span, out=np.full(len(control), np.nan), where=wide))


def saturation_stratum(share: FloatArray) -> list[str]:
    """Return ``resistant`` where baselines cover less than half of the range, else ``saturated``, "" if undefined."""
    return ["" if np.isnan(s) else "resistant" if s < RESISTANT else "saturated" for s in share]


def duplicated(r: FloatArray) -> FloatArray:
    """Return the correlation that whole conditions would reach, from that of halves (Spearman-Brown); 0 if r <= 0."""
    return np.where(np.isnan(r), np.nan, np.divide(2 * r, 1 + r, out=np.zeros_like(r), where=r > 0))


def between_variance(means: FloatArray) -> float:
    """Return the variance between conditions [C, G], summed over genes."""
    return float(np.square(means - means.mean(axis=0)).sum() / max(len(means) - 1, 1))


def effective_rank(means: FloatArray) -> float:
    """Return the effective rank of a matrix [C, G]: exp of the entropy of its scaled singular values; 0 if zero."""
    values = np.linalg.svd(means, compute_uv=False)
    total = values.sum()
    if total == 0:
        return 0.0
    share = values[values > 1e-12 * total] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def collapse(truth: FloatArray, predicted: FloatArray, contexts: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Return (variance ratio, effective rank ratio) of predictions to truth, each [C], by context.

    NaN where a context has one condition only or its observed conditions do not differ.
    """
    variance, rank = np.full(len(truth), np.nan), np.full(len(truth), np.nan)
    for context in np.unique(contexts):
        rows: IntArray = np.flatnonzero(contexts == context)
        observed = between_variance(truth[rows])
        if len(rows) > 1 and observed > 0:
            variance[rows] = between_variance(predicted[rows]) / observed
            rank[rows] = effective_rank(predicted[rows]) / effective_rank(truth[rows])
    return variance, rank
