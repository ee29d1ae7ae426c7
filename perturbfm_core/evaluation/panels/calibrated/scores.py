"""Errors, correlations and R² of condition means over all genes, weighted genes or DEGs: the metrics to calibrate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

from perturbfm_core.evaluation import rowwise, ties
from perturbfm_core.schema import BoolArray, FloatArray

MIN_DEGS = 3
_TIE = 1e-12
ROUNDING = 1e-5
# Deviations below this share of the values are rounding, as in `rowwise.constant`.
ROUNDING_SHARE = ties.ROUNDING
_DOUBLE = 1e-13


@dataclass(frozen=True, eq=False)
class Sides:
    """Observed side of a score; every array is [C, G], log1p units.

    Attributes
    ----------
    truth
        Observed mean expression, or delta (then `control` is 0).
    control, center
        Control mean, and mean of the perturbed train condition means, in the same space.
    weights
        Gene weights, None where there are no cells to derive them from.
    degs
        Differentially expressed genes, None where there are no cells.
    keep
        Genes that the condition does not perturb itself.
    contexts
        [C], context of each condition; conditions are ranked within their context.
    offset
        Added to both sides before distances between conditions are taken (controls, if the arrays are deltas).
    as_peer
        Whether what this project leaves undefined or shares is as in the peer's code: a condition as far as the own one
        does not count in ``nir`` (else one half), and R² of a constant truth is 0 or 1 (see `r2`).
    """

    truth: FloatArray
    control: FloatArray
    center: FloatArray
    contexts: np.ndarray
    weights: FloatArray | None = None
    degs: BoolArray | None = None
    keep: BoolArray | None = None
    offset: FloatArray | None = None
    as_peer: bool = True


def minus(A: FloatArray, center: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return A - center, with rows set to exactly zero where only single-precision rounding is left.

    Parameters
    ----------
    A
        Values [C, G].
    center
        Subtracted values, [G] or [C, G].
    mask
        Genes [C, G] in which the rest is judged; all by default.
    """
    out = A - center
    keep = np.True_ if mask is None else mask
    size = np.maximum(np.abs(A * keep).max(axis=1), np.abs(center * keep).max(axis=-1))
    out[np.abs(out * keep).max(axis=1) <= ROUNDING * size] = 0.0
    return out


def mean_error(truth: FloatArray, predicted: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Return [C], the (weighted) mean of squared errors over genes; NaN where no gene has weight.

    Parameters
    ----------
    truth, predicted
        Observed and predicted values [C, G].
    weights
        Gene weights [C, G]; equal by default.
    """
    squared = np.square(predicted - truth)
    if weights is None:
        return np.asarray(squared.mean(axis=1))
    return _over((weights * squared).sum(axis=1), weights.sum(axis=1))


def r2(
    truth: FloatArray,
    predicted: FloatArray,
    weights: FloatArray | BoolArray | None = None,
    *,
    finite: bool = False,
) -> FloatArray:
    """Return [C], R²: 1 minus residual over total sum of squares of the truth; NaN where the truth is constant up to rounding.

    Parameters
    ----------
    truth, predicted
        Observed and predicted values [C, G].
    weights
        Gene weights, or a mask of genes, [C, G]; equal by default.
    finite
        Whether a constant truth has 1 where the prediction equals it and 0 elsewhere, as in scikit-learn. Only what
        double precision cannot tell from it is constant then: weights may be nearly all of one gene.
    """
    share = _DOUBLE if finite else ROUNDING_SHARE
    w = np.ones_like(truth) if weights is None else weights.astype(np.float64)
    mean = _over((w * truth).sum(axis=1), w.sum(axis=1))
    left = (w * np.square(truth - predicted)).sum(axis=1)
    total = (w * np.square(truth - mean[:, None])).sum(axis=1)
    size = (w * np.square(truth)).sum(axis=1)
    out = 1.0 - _over(left, np.where(total > share**2 * size, total, 0.0))
    if not finite:
        return out
    size = np.maximum(size, (w * np.square(predicted)).sum(axis=1))
    constant = np.where(left > share**2 * size, 0.0, 1.0)
    return np.where(np.isnan(out) & (w.sum(axis=1) > 0), constant, out)


def correlation(truth: FloatArray, predicted: FloatArray, mask: BoolArray | None = None) -> FloatArray:
    """Return [C], the Pearson correlation over genes; NaN where a side is constant or has fewer than 3 genes.

    Parameters
    ----------
    truth, predicted
        Observed and predicted values [C, G].
    mask
        Genes to use [C, G]; all by default.
    """
    if mask is None:
        return rowwise.pearson(truth, predicted)
    few = mask.sum(axis=1) < MIN_DEGS
    out = rowwise.pearson(truth, predicted, mask | few[:, None])
    out[few] = np.nan
    return out


def inverse_rank(
    truth: FloatArray, predicted: FloatArray, contexts: np.ndarray, *, shared_ties: bool = False
) -> FloatArray:
    """Return [C], the share of other conditions of the context that a prediction is farther from than its own.

    The distance is Euclidean, and equal up to rounding is a tie; NaN where the context has one condition only.

    Parameters
    ----------
    truth, predicted
        Observed and predicted mean expression [C, G].
    contexts
        Context of each condition [C].
    shared_ties
        Whether a tie counts one half; else it does not count.
    """
    out = np.full(len(truth), np.nan)
    for context in np.unique(contexts):
        rows = np.flatnonzero(contexts == context)
        if len(rows) < 2:
            continue
        distance = cdist(predicted[rows], truth[rows])
        gap = distance - np.diag(distance)[:, None]
        tied = np.abs(gap) <= _TIE * distance.max(axis=1, keepdims=True)
        half = 0.5 * (tied.sum(axis=1) - 1) if shared_ties else 0.0
        out[rows] = (((gap > 0) & ~tied).sum(axis=1) + half) / (len(rows) - 1)
    return out


@dataclass(frozen=True)
class Kind:
    """Properties of a metric that its calibration depends on.

    Attributes
    ----------
    direction
        ``max`` (perfect is 1) or ``min`` (perfect is 0).
    centered
        Whether it scores deltas against the mean of train conditions. The train mean is then a prediction of
        zero, whose correlation is undefined, so that the control mean is the negative control.
    needs_cells
        Whether it needs gene weights or DEGs.
    low
        The smallest possible value, None for unbounded.
    description
        First line of its documentation.
    undefined
        Why it can be NaN.
    """

    direction: Literal["max", "min"]
    centered: bool
    needs_cells: bool
    low: float | None
    description: str
    undefined: str


_FLAT = "predicted or observed change is constant over genes"
_WEIGHTS = "no gene weights: fewer than 4 cells in the first half, or no other condition of the context to test against"
_DEGS = f"fewer than {MIN_DEGS} differentially expressed genes, or a side is constant over them"
_SINGLE = "only one condition in this context is tested"

KINDS: Mapping[str, Kind] = {
    "mse": Kind("min", False, False, 0.0, "Mean squared error over genes.", "never undefined"),
    "wmse": Kind(
        "min",
        False,
        True,
        0.0,
        "Squared error, mean over genes weighted by squared scaled t against the rest.",
        _WEIGHTS,
    ),
    "wmse_no_target": Kind(
        "min", False, True, 0.0, "WMSE (weighted squared error) without the perturbed genes.", _WEIGHTS
    ),
    "pearson_deltactrl": Kind(
        "max", False, False, -1.0, "Pearson correlation of deltas against the control.", _FLAT
    ),
    "pearson_deltactrl_degs": Kind(
        "max", False, True, -1.0, "Pearson correlation of deltas against the control, over DEGs.", _DEGS
    ),
    "r2_deltactrl": Kind("max", False, False, None, "R² of deltas against the control.", _FLAT),
    "r2_deltactrl_degs": Kind(
        "max", False, True, None, "R² of deltas against the control, over DEGs.", _DEGS
    ),
    "weighted_r2_deltactrl": Kind(
        "max",
        False,
        True,
        None,
        "R² of deltas against the control, genes weighted as in WMSE.",
        f"{_WEIGHTS}, or {_FLAT}",
    ),
    "pearson_deltapert": Kind(
        "max", True, False, -1.0, "Pearson correlation of deltas against the mean of train conditions.", _FLAT
    ),
    "pearson_deltapert_degs": Kind(
        "max",
        True,
        True,
        -1.0,
        "Pearson correlation of deltas against the mean of train conditions, over DEGs.",
        _DEGS,
    ),
    "r2_deltapert": Kind(
        "max", True, False, None, "R² of deltas against the mean of train conditions.", _FLAT
    ),
    "r2_deltapert_degs": Kind(
        "max", True, True, None, "R² of deltas against the mean of train conditions, over DEGs.", _DEGS
    ),
    "weighted_r2_deltapert": Kind(
        "max",
        True,
        True,
        None,
        "R² of deltas against the mean of train conditions, weighted as in WMSE.",
        f"{_WEIGHTS}, or {_FLAT}",
    ),
    "pearson_centered_no_target": Kind(
        "max",
        True,
        False,
        -1.0,
        "Pearson correlation of deltas against the mean of train conditions, without the perturbed genes.",
        _FLAT,
    ),
    "nir": Kind(
        "max",
        False,
        False,
        0.0,
        "Normalised inverse rank: share of other conditions farther from the prediction than its own; ties count half.",
        _SINGLE,
    ),
}


def of_flat_predictions(
    sides: Sides, predicted: FloatArray, scores: Mapping[str, FloatArray]
) -> dict[str, FloatArray]:
    """Return the scores with every R² undefined where the predicted change is constant over its genes up to rounding.

    Parameters
    ----------
    sides
        The observed side.
    predicted
        Predictions [C, G].
    scores
        {metric: [C]} of these predictions (see `all_scores`), where R² has a value: that of predicting no change.
    """
    out = dict(scores)
    for name, center in (("deltactrl", sides.control), ("deltapert", sides.center)):
        change = minus(predicted, center)
        genes = {
            "r2_": None,
            "r2_{}_degs": sides.degs,
            "weighted_r2_": None if sides.weights is None else sides.weights > 0,
        }
        for form, mask in genes.items():
            key = form.format(name) if "{}" in form else form + name
            out[key] = np.where(rowwise.constant(change, mask), np.nan, out[key])
    return out


def all_scores(sides: Sides, predicted: FloatArray) -> dict[str, FloatArray]:
    """Return {metric: [C]} for the metrics of `KINDS` and predictions [C, G]; NaN where cells are needed and missing."""
    Y, Q, keep = sides.truth, predicted, sides.keep
    D, Dp = Y - sides.control, minus(Q, sides.control)
    P, Pp = minus(Y, sides.center), minus(Q, sides.center)
    offset = 0.0 if sides.offset is None else sides.offset
    none = np.full(len(Y), np.nan)
    out = dict.fromkeys(KINDS, none)
    out["mse"] = mean_error(Y, Q)
    out["nir"] = inverse_rank(Y + offset, Q + offset, sides.contexts, shared_ties=not sides.as_peer)
    for name, truth, guess in (("deltactrl", D, Dp), ("deltapert", P, Pp)):
        out[f"pearson_{name}"] = correlation(truth, guess)
        out[f"r2_{name}"] = r2(truth, guess, finite=sides.as_peer)
        if sides.weights is not None:
            out[f"weighted_r2_{name}"] = r2(truth, guess, sides.weights, finite=sides.as_peer)
        if sides.degs is not None:
            enough = sides.degs.sum(axis=1) >= MIN_DEGS
            out[f"pearson_{name}_degs"] = correlation(truth, guess, sides.degs)
            over_degs = r2(truth, guess, sides.degs, finite=sides.as_peer)
            out[f"r2_{name}_degs"] = np.where(enough, over_degs, np.nan)
    out["pearson_centered_no_target"] = correlation(
        minus(Y, sides.center, keep), minus(Q, sides.center, keep), keep
    )
    if sides.weights is not None:
        out["wmse"] = mean_error(Y, Q, sides.weights)
        out["wmse_no_target"] = mean_error(Y, Q, sides.weights if keep is None else sides.weights * keep)
    return out


def _over(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.asarray(np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0))
