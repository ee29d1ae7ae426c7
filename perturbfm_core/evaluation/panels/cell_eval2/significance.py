"""Metrics of the sets of significant genes, their order, and their fold changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from perturbfm_core.evaluation.panels.cell_eval2.tables import MIN_GATE, TablePair, gated, share
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

CUTOFFS: tuple[int | None, ...] = (None, 50, 100, 200, 500)


def overlap(pair: TablePair, k: int | None) -> FloatArray:
    """Return [P], share of the truth's k strongest significant genes among the prediction's; None: of all."""
    return _common_top(pair, pair.n_real, k)


def precision(pair: TablePair, k: int | None) -> FloatArray:
    """Return [P], share of the prediction's k strongest significant genes among the truth's; None: of all."""
    return _common_top(pair, pair.n_pred, k)


def _common_top(pair: TablePair, n: IntArray, k: int | None) -> FloatArray:
    top = n if k is None else np.minimum(n, k)
    inside = (pair.real.rank < top[:, None]) & (pair.pred.rank < top[:, None])
    return share(inside.sum(axis=1), top, 0.0)


def nsig_spearman(pair: TablePair) -> FloatArray:
    """Return [P], one Spearman correlation of the numbers of significant genes, the same for all perturbations.

    -1 for a constant prediction; NaN where fewer than 10 perturbations have significant genes, or all have as many.
    """
    some = pair.n_real > 0
    real, pred = pair.n_real[some], pair.n_pred[some]
    if len(real) < MIN_GATE or len(np.unique(real)) < 2:
        value = np.nan
    else:
        value = -1.0 if len(np.unique(pred)) < 2 else spearman(real, pred)
    return np.full(len(pair.n_real), value)


def spearman(x: IntArray | FloatArray, y: IntArray | FloatArray) -> float:
    """Return the Pearson correlation of mean ranks, NaN where one side is constant."""
    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")


def sig_recall(pair: TablePair) -> FloatArray:
    """Return [P], share of the truth's significant genes that the prediction has."""
    return gated(share(pair.n_common, pair.n_real), pair.enough)


def sig_jaccard(pair: TablePair) -> FloatArray:
    """Return [P], intersection over union of the significant genes without the target; 1 where both are empty."""
    real, pred = pair.real.significant & pair.off_target, pair.pred.significant & pair.off_target
    return share((real & pred).sum(axis=1), (real | pred).sum(axis=1), 1.0)


def lfc_spearman(pair: TablePair, sign: int = 0) -> FloatArray:
    """Return [P], Spearman correlation of the fold changes of the truth's significant genes.

    -1 for a constant prediction; NaN with fewer than 10 genes or a constant truth.

    Parameters
    ----------
    pair
        The tables.
    sign
        1: only genes that rise, -1: only genes that fall.
    """
    chosen = pair.real.significant
    if sign:
        chosen = chosen & (np.sign(pair.real.lfc) == sign)
    out = np.full(len(chosen), np.nan)
    for i in np.flatnonzero(chosen.sum(axis=1) >= MIN_GATE):
        real, pred = pair.real.lfc[i, chosen[i]], pair.predicted_lfc[i, chosen[i]]
        if (real == real[0]).all():
            continue
        value = -1.0 if (pred == pred[0]).all() else spearman(real, pred)
        out[i] = value if np.isfinite(value) else -1.0
    return out


def lfc_nmae(pair: TablePair) -> tuple[FloatArray, BoolArray]:
    """Return ([P], which have a value): summed error of the fold changes over their summed size.

    Genes are the truth's significant ones without the target. Perturbations with fewer than 10 have no value.
    """
    chosen = pair.real.significant & pair.off_target & np.isfinite(pair.real.lfc)
    return normalized_error(
        np.where(np.isfinite(pair.predicted_lfc), pair.predicted_lfc, 0.0), pair.real.lfc, chosen
    )


def normalized_error(
    pred: FloatArray, real: FloatArray, chosen: BoolArray, scale: FloatArray | None = None
) -> tuple[FloatArray, BoolArray]:
    """Return ([P], which have a value): summed absolute difference over summed size, of chosen genes.

    Parameters
    ----------
    pred, real
        Fold changes [P, G].
    chosen
        Genes of each perturbation [P, G].
    scale
        What is summed below, if not `real` [P, G].
    """
    size = np.abs(real if scale is None else scale)
    gap = np.where(chosen, np.abs(pred - real), 0.0).sum(axis=1)
    below = np.where(chosen, size, 0.0).sum(axis=1)
    valid = (chosen.sum(axis=1) >= MIN_GATE) & np.isfinite(below) & (below > 0)
    return np.divide(gap, below, out=np.full(len(gap), np.nan), where=valid), valid


# ---- agreement beyond chance ---------------------------------------------------------------------------------


def overlap_adjusted(pair: TablePair) -> FloatArray:
    """Return [P], Matthews correlation of the truth's significant genes and as many of the prediction's strongest."""
    top = pair.pred.rank < pair.n_real[:, None]
    return adjusted_overlap(pair, (top & pair.real.significant).sum(axis=1))


def adjusted_overlap(pair: TablePair, common: IntArray) -> FloatArray:
    """Return [P], the value of `overlap_adjusted` for given numbers of shared genes [P]."""
    value = _matthews(common, pair.n_real, np.minimum(pair.n_real, pair.n_pred), pair.n_universe)
    return gated(value, _two_classes(pair))


def precision_adjusted(pair: TablePair) -> FloatArray:
    """Return [P], markedness of the significant genes, -1 where the prediction has none or all."""
    return _informedness(pair.n_common, pair.n_pred, pair.n_real, pair.n_universe)


def sig_recall_adjusted(pair: TablePair) -> FloatArray:
    """Return [P], informedness of the significant genes."""
    value = _informedness(pair.n_common, pair.n_real, pair.n_pred, pair.n_universe)
    return gated(value, _two_classes(pair))


def sig_mcc(pair: TablePair) -> FloatArray:
    """Return [P], Matthews correlation of the significant genes, -1 where the prediction has none or all."""
    value = _matthews(pair.n_common, pair.n_real, pair.n_pred, pair.n_universe)
    return gated(value, _two_classes(pair))


def _two_classes(pair: TablePair) -> BoolArray:
    return np.asarray(pair.enough & (int(pair.real.tested.sum()) > pair.n_real))


def _informedness(common: IntArray, a: IntArray, b: IntArray, universe: int) -> FloatArray:
    defined = (a > 0) & (a < universe)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(defined, common / a - (b - common) / (universe - a), -1.0)


def _matthews(common: IntArray, a: IntArray, b: IntArray, universe: int) -> FloatArray:
    defined = (a > 0) & (a < universe) & (b > 0) & (b < universe)
    x, y = a.astype(np.float64), b.astype(np.float64)
    spread = np.sqrt(x * y * (universe - x) * (universe - y))
    top = common.astype(np.float64) * universe - x * y
    return np.asarray(np.divide(top, spread, out=np.full(len(x), -1.0), where=defined))


# ---- rank curves -----------------------------------------------------------------------------------------------


def pr_auc(pair: TablePair) -> FloatArray:
    """Return [P], average precision of the predicted p-values for the truth's significant genes."""
    return _curves(pair, _average_precision)


def roc_auc(pair: TablePair) -> FloatArray:
    """Return [P], area under the ROC curve of the predicted p-values for the truth's significant genes."""
    return _curves(pair, _area)


def _curves(pair: TablePair, area: Callable[[FloatArray, FloatArray], float]) -> FloatArray:
    columns = pair.real.tested
    q = np.nan_to_num(pair.pred.p_adj[:, columns], nan=1.0)
    positive = q[q > 0]
    q = np.where(q == 0, positive.min() if positive.size else 1e-10, q)
    scores, labels = -np.log10(q), pair.real.significant[:, columns]
    out = np.full(len(q), np.nan)
    for i in np.flatnonzero(_two_classes(pair)):
        order = np.argsort(-scores[i], kind="stable")
        ranked = scores[i, order]
        hits = np.cumsum(labels[i, order])
        # Equal scores are one step of the curve.
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        out[i] = area(hits[last].astype(np.float64), (last + 1).astype(np.float64))
    return out


def _average_precision(hits: FloatArray, called: FloatArray) -> float:
    gained = np.diff(hits, prepend=0.0) / hits[-1]
    return float(np.clip((gained * hits / called).sum(), 0.0, 1.0))


def _area(hits: FloatArray, called: FloatArray) -> float:
    misses = called - hits
    height = np.concatenate([[0.0], hits]) / hits[-1]
    width = np.diff(np.concatenate([[0.0], misses])) / misses[-1]
    return float((width * (height[1:] + height[:-1]) / 2.0).sum())
