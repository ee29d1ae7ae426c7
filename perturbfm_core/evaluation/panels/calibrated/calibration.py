"""Negative and positive controls of a metric, the dynamic range between them, and scores on that range.

Dynamic range fraction: Miller et al. 2025 (bioRxiv 10.1101/2025.10.20.683304). Interpolated duplicate: Mejia et al.
2025 (arXiv 2506.22641). Baseline saturation: openreview U5Gq071xcI.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from perturbfm_core.evaluation.panels.calibrated.scores import KINDS
from perturbfm_core.evaluation.ties import ROUNDING
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

EPSILON = 1e-6
MIN_RANGE = 0.1
RESISTANT = 0.5
HALF_SEED = 0


def first_half(cells: Iterable[bytes], seed: int = HALF_SEED) -> BoolArray:
    """Return bool [n], a fixed half of a condition's cells, rounded up.

    Cells are ordered by a seeded hash of their identifying bytes, so that the halves do not depend on row order.
    """
    salt = seed.to_bytes(8, "little")
    places = [blake2b(cell, digest_size=16, salt=salt).digest() for cell in cells]
    order = sorted(range(len(places)), key=places.__getitem__)
    out = np.zeros(len(places), dtype=np.bool_)
    out[order[: (len(order) + 1) // 2]] = True
    return out


def interpolated(duplicate: FloatArray, train_mean: FloatArray, p: FloatArray) -> FloatArray:
    """Return [C, G], the positive control: per gene between the duplicate (p = 0) and the train mean (p = 1).

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
    """Return [C] in [-1, 1], the positive control's share of the way from the negative control to a perfect score.

    Parameters
    ----------
    name
        Metric, a key of `KINDS`.
    negative, positive
        Scores of the two controls [C].
    """
    # A perfect score is 1 for metrics to maximise and 0 for errors.
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

    Parameters
    ----------
    name
        Metric, a key of `KINDS`.
    value
        Scores of the prediction [C].
    negative, positive
        Scores of the two controls [C].
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
    """Return [C], the expected correlation of whole conditions from that of halves [C]; 0 if r <= 0.

    Spearman-Brown: doubling the number of cells turns a reliability r into 2 r / (1 + r).
    """
    return np.where(np.isnan(r), np.nan, np.divide(2 * r, 1 + r, out=np.zeros_like(r), where=r > 0))


def between_variance(means: FloatArray) -> float:
    """Return the variance between conditions [C, G], summed over genes."""
    return float(np.square(means - means.mean(axis=0)).sum() / max(len(means) - 1, 1))


def effective_rank(means: FloatArray) -> float:
    """Return the effective rank of a matrix [C, G], 0 for a zero matrix.

    It is exp of the entropy of the singular values scaled to sum 1 (Roy and Vetterli 2007).
    """
    values = np.linalg.svd(means, compute_uv=False)
    total = values.sum()
    if total == 0:
        return 0.0
    share = values[values > 1e-12 * total] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def collapse(truth: FloatArray, predicted: FloatArray, contexts: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Return (variance ratio, effective rank ratio) of predictions to truth, each [C], by context.

    NaN where a context has one condition only or its observed conditions do not differ.

    Parameters
    ----------
    truth, predicted
        Observed and predicted deltas [C, G], log1p units.
    contexts
        Context of each condition [C].
    """
    variance, rank = np.full(len(truth), np.nan), np.full(len(truth), np.nan)
    for context in np.unique(contexts):
        rows: IntArray = np.flatnonzero(contexts == context)
        observed = between_variance(truth[rows])
        # Below, the conditions differ by rounding only.
        noise = ROUNDING**2 * float(np.square(truth[rows]).sum())
        if len(rows) > 1 and observed > noise:
            variance[rows] = between_variance(predicted[rows]) / observed
            rank[rows] = effective_rank(predicted[rows]) / effective_rank(truth[rows])
    return variance, rank
