"""Ranking of conditions by predicted uncertainty: risk-coverage curves and related scores.

Risk is the error of a condition, coverage the share of conditions that are kept, least uncertain first.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.ties import largest, sizes
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


def auroc(label: BoolArray, score: FloatArray) -> float:
    """Return the area under the ROC curve; NaN where only one class occurs."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(label)) < 2:
        return float("nan")
    return float(roc_auc_score(label, score))


def error_detection(risk: FloatArray, uncertainty: FloatArray) -> float:
    """Return the AUROC of the uncertainty for the third of the conditions with the largest error.

    Their number is rounded, at least 1. Equal errors at the cut share the places left: the value is the expectation over
    which of them count as large. NaN for fewer than 3 conditions or equal errors.
    """
    n = len(risk)
    if n < MIN_CONDITIONS or _equal(risk):
        return float("nan")
    top = largest(sizes(risk[None, :]), np.asarray([max(round(TOP_SHARE * n), 1)]))
    sure, tied, places = top.sure[0], top.tied[0], int(top.places[0])
    small = ~sure & ~tied
    wins = (uncertainty[:, None] > uncertainty) + 0.5 * (uncertainty[:, None] == uncertainty)
    m = max(int(tied.sum()), 1)
    # Share of the orders in which a tied condition counts as large; for two of them, in which just the first does.
    large = np.where(sure, 1.0, np.where(tied, places / m, 0.0))
    pairs = large[:, None] * (small | tied) * np.where(tied, 1.0 - places / m, 1.0)
    if m > 1:
        pairs[np.ix_(tied, tied)] = places * (m - places) / (m * (m - 1))
    np.fill_diagonal(pairs, 0.0)
    return float((pairs * wins).sum() / pairs.sum())


def _equal(values: FloatArray) -> bool:
    """Return whether values differ by rounding only."""
    return bool(rowwise.constant(np.asarray(values, dtype=np.float64)[None, :])[0])


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Return the Spearman correlation (mean ranks for ties); NaN where a side is constant or has fewer than 3 values."""
    if len(a) < MIN_CONDITIONS or _equal(a) or _equal(b):
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])
