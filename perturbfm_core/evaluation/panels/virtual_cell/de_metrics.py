"""Agreement of observed and predicted differential expression, by the definitions of cell-eval 0.8.2.

`real` is the differential expression of observed cells, `pred` that of predicted cells. All functions return
float64 [P] or one number. A DE gene is one whose adjusted p-value is below 0.05.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.panels.virtual_cell.differential import DifferentialExpression
from perturbfm_core.evaluation.ties import expected_shared, largest, shared_bounds
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

CUTOFFS: tuple[int | None, ...] = (None, 50, 100, 200, 500)
_FDR_FLOOR = 1e-10


def overlap_at(real: DifferentialExpression, pred: DifferentialExpression, k: int | None) -> FloatArray:
    """Return [P], the share of the k most changed observed DE genes that are among the k most changed predicted ones.

    Parameters
    ----------
    real, pred
        Observed and predicted differential expression.
    k
        Number of genes, limited to the number of observed DE genes; that number if None. The share is 0 without any.
    """
    return _shared(real, pred, real.significant.sum(axis=1), k)


def precision_at(real: DifferentialExpression, pred: DifferentialExpression, k: int | None) -> FloatArray:
    """Return [P], `overlap_at` with k limited to the number of *predicted* DE genes.

    cell-eval cuts both lists at k, so that this is not the usual precision.

    Parameters
    ----------
    real, pred
        Observed and predicted differential expression.
    k
        Number of genes, limited to the number of predicted DE genes; that number if None. The share is 0 without any.
    """
    return _shared(real, pred, pred.significant.sum(axis=1), k)


def _shared(
    real: DifferentialExpression, pred: DifferentialExpression, available: FloatArray, k: int | None
) -> FloatArray:
    length: IntArray = np.asarray(available if k is None else np.minimum(k, available), dtype=np.int64)
    limit = length[:, None]
    if real.ties_in_order or pred.ties_in_order:
        both = ((real.rank < limit) & (pred.rank < limit)).sum(axis=1)
    else:
        both = expected_shared(largest(real.change_size, length), largest(pred.change_size, length))
    return np.asarray(both / np.maximum(length, 1))


def overlap_bounds(
    real: DifferentialExpression, pred: DifferentialExpression, k: int | None, *, of_predicted: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the least and the most [P] that `overlap_at` can be where equal fold changes come in any order.

    cell-eval sorts more than 20 genes with a sort that is not stable.

    Parameters
    ----------
    real, pred, k
        See `overlap_at`.
    of_predicted
        Whether it is `precision_at` instead.
    """
    available = (pred if of_predicted else real).significant.sum(axis=1)
    length = np.asarray(available if k is None else np.minimum(k, available), dtype=np.int64)
    bounds = shared_bounds(largest(real.change_size, length), largest(pred.change_size, length))
    least, most = (np.asarray(n / np.maximum(length, 1)) for n in bounds)
    return least, most


def spearman_of_counts(real: DifferentialExpression, pred: DifferentialExpression) -> float:
    """Return the Spearman correlation of observed and predicted numbers of DE genes, over perturbations with any.

    1 if no perturbation has any, NaN if only one has, or if the numbers are constant.
    """
    n_real, n_pred = real.significant.sum(axis=1), pred.significant.sum(axis=1)
    some = n_real > 0
    if not some.any():
        return 1.0
    return _spearman(n_real[some], n_pred[some])


def direction_match(real: DifferentialExpression, pred: DifferentialExpression) -> FloatArray:
    """Return the share of observed DE genes whose predicted change has the same sign; NaN without any."""
    same = (np.sign(real.lfc32) == np.sign(pred.lfc32)) & real.significant
    return _ratio(same.sum(axis=1), real.significant.sum(axis=1))


def spearman_of_changes(real: DifferentialExpression, pred: DifferentialExpression) -> FloatArray:
    """Return the Spearman correlation of fold changes over the observed DE genes; NaN for fewer than two."""
    return np.asarray(
        [_spearman(a[s], b[s]) for a, b, s in zip(real.lfc32, pred.lfc32, real.significant, strict=True)]
    )


def recall(real: DifferentialExpression, pred: DifferentialExpression) -> FloatArray:
    """Return the share of observed DE genes that are predicted DE genes; NaN without any."""
    return _ratio((real.significant & pred.significant).sum(axis=1), real.significant.sum(axis=1))


def areas(real: DifferentialExpression, pred: DifferentialExpression) -> tuple[FloatArray, FloatArray]:
    """Return (average precision, area under the ROC curve) of predicted -log10 FDR for observed DE genes.

    NaN where all genes or none are observed DE genes. Equal scores form one threshold.
    """
    scores = -np.log10(np.clip(pred.fdr32, np.float32(_FDR_FLOOR), np.float32(1.0)))
    both = [_areas(label, score) for label, score in zip(real.significant, scores, strict=True)]
    return np.asarray([b[0] for b in both]), np.asarray([b[1] for b in both])


def _areas(label: BoolArray, score: FloatArray) -> tuple[float, float]:
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return np.nan, np.nan
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(label) - 1)
    hits = np.cumsum(label[order])[ends]
    called = ends + 1.0
    gained = np.diff(hits, prepend=0)
    precision = float((gained * (hits / called)).sum() / positives)
    false = np.concatenate([[0.0], (called - hits) / negatives])
    true = np.concatenate([[0.0], hits / positives])
    return precision, float(np.trapezoid(true, false))


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _spearman(a: FloatArray, b: FloatArray) -> float:
    if len(a) < 2 or any(np.isfinite(v).all() and rowwise.constant(v[None])[0] for v in (a, b)):
        return np.nan
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else np.nan
