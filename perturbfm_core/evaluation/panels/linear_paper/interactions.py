"""Genetic interactions: deviations of double perturbations from the sum of their singles, and their prediction.

Method of Ahlmann-Eltze et al. 2025.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation.panels.linear_paper.local_fdr import local_fdr
from perturbfm_core.schema import FloatArray

LEVEL = 0.05
NEAR = 0.2
POINTS = 101
_DECIMALS = 6


def thresholds(deviation: FloatArray) -> tuple[float, float] | None:
    """Return (lower, upper) deviation from additivity beyond which genes interact; None where no null can be fitted.

    The deviations are pooled over genes and doubles. Each threshold is where the local false discovery rate is
    closest to 0.05 on that side of the null's centre, infinite where the rate nowhere falls below 0.2.
    """
    fitted = local_fdr(np.ravel(deviation))
    if fitted is None:
        return None
    x, fdr, centre = fitted
    found = []
    for side, none in ((x < centre, -np.inf), (x > centre, np.inf)):
        positions, rates = x[side], fdr[side]
        at = int(np.argmin(np.abs(rates - LEVEL))) if len(rates) else -1
        found.append(float(positions[at]) if at >= 0 and rates.min() < NEAR else float(none))
    return found[0], found[1]


def synergy_curve(observed: FloatArray, predicted: FloatArray, upper: float) -> FloatArray | None:
    """Return [101], the largest share of synergies found at false discovery proportions 0, 0.01, ..., 1.

    Parameters
    ----------
    observed, predicted
        Observed and predicted deviations from additivity, one per gene and double, of the same shape; log1p units.
    upper
        Observed deviations above it are synergies; all others, suppressions included, are false discoveries.

    Returns
    -------
    float64 [101], or None without any synergy. Pairs of gene and double are called in order of predicted deviation,
    equal ones (to 6 decimals) together.
    """
    seen, guess = np.round(np.ravel(observed), _DECIMALS), np.round(np.ravel(predicted), _DECIMALS)
    positive = seen > upper
    if not positive.any():
        return None
    order = np.argsort(-guess, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(guess[order]) != 0, True))
    true = np.cumsum(positive[order])[ends]
    rate, wrong = true / positive.sum(), 1.0 - true / (ends + 1)
    by_error = np.argsort(wrong, kind="stable")
    reached = np.concatenate([[0.0], np.maximum.accumulate(rate[by_error])])
    grid = np.linspace(0.0, 1.0, POINTS)
    return np.asarray(reached[np.searchsorted(wrong[by_error], grid + 1e-12, side="right")])
