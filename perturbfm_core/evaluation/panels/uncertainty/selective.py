"""Ranking of conditions by predicted uncertainty: risk-coverage curves and related scores.

Risk is the error of a condition, coverage the share of conditions that are kept, least uncertain first.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from perturbfm_core.schema import BoolArray, FloatArray

MIN_CONDITIONS = 3
TOP_SHARE = 1 / 3


def risk_coverage(risk: FloatArray, uncertainty: FloatArray) -> FloatArray:
    """Return [n]: the mean risk of the k least uncertain conditions, for k = 1 to n.

    Equally uncertain conditions are taken in random order, in expectation: each counts with their mean risk.
    """
    order = np.argsort(uncertainty, kind="stable")
    _, group = np.unique(uncertainty[order], return_inverse=True)
    ordered = risk[order]
    expected = (np.bincount(group, weights=ordered) / np.bincount(group))[group]
    return np.asarray(np.cumsum(expected) / np.arange(1, len(risk) + 1))


def aurc(risk: FloatArray, uncertainty: FloatArray) -> float:
    """Return the area under the risk-coverage curve, as its mean over all coverages (Geifman et al. 2019)."""
    return float(risk_coverage(risk, uncertainty).mean()) if len(risk) else float("nan")


def excess_aurc(risk: FloatArray, uncertainty: FloatArray) -> float:
    """Return `aurc` minus that of the oracle, divided by the same difference for a random order.

    0 if conditions are ranked by their error, 1 for a random order; NaN with equal errors or fewer than 3 conditions.
    """
    if len(risk) < MIN_CONDITIONS:
        return float("nan")
    best, chance = aurc(risk, risk), float(risk.mean())
    if chance - best <= 1e-12 * max(abs(chance), 1e-300):
        return float("nan")
    return (aurc(risk, uncertainty) - best) / (chance - best)


def large_errors(risk: FloatArray) -> BoolArray:
    """Return bool [n], the third of the conditions with the largest error (their number rounded, at least 1)."""
    k = max(round(TOP_SHARE * len(risk)), 1)
    out = np.zeros(len(risk), dtype=np.bool_)
    out[np.argsort(risk, kind="stable")[len(risk) - k :]] = True
    return out


def auroc(label: BoolArray, score: FloatArray) -> float:
    """Return the area under the ROC curve; NaN where only one class occurs."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(label)) < 2:
        return float("nan")
    return float(roc_auc_score(label, score))


def error_detection(risk: FloatArray, uncertainty: FloatArray) -> float:
    """Return the AUROC of the uncertainty for the third of conditions with the largest error; NaN for fewer than 3."""
    if len(risk) < MIN_CONDITIONS or np.ptp(risk) == 0:
        return float("nan")
    return auroc(large_errors(risk), uncertainty)


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Return the Spearman correlation (mean ranks for ties); NaN where a side is constant or has fewer than 3 values."""
    if len(a) < MIN_CONDITIONS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
