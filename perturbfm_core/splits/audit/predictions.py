"""Audit checks of predictions: means and variances that can only come from the test cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import take_rows
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.data.pseudobulk import group_moments
from perturbfm_core.data.table import condition_table
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.audit.core import RUN_CHECKS, Finding, NotApplicable, finding
from perturbfm_core.splits.audit.run import RunEvidence
from perturbfm_core.splits.split import FrozenSplit

EQUAL = 1e-4
MAX_P = 1e-3
MAX_P_CLOSE = 0.01
MARGIN = 0.01
MIN_CONDITIONS = 5
MIN_RESIDUAL = 0.05
MIN_CHANGED = 8


@dataclass(frozen=True, eq=False)
class _Served:
    """Predictions of test rows, with genes in the order of the data set.

    Attributes
    ----------
    rows
        int64 [n], test rows with a prediction, ascending.
    mean
        float64 [n, G], predicted delta of each.
    var
        float64 [n, G], predicted variance of each.
    codes
        int64 [n], condition of each row, as a position in `keys`.
    keys
        Keys of the conditions.
    """

    rows: IntArray
    mean: FloatArray
    var: FloatArray
    codes: IntArray
    keys: list[str]


def _served(ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction | None) -> _Served:
    """Return the predictions of test rows.

    Raises
    ------
    NotApplicable
        If there are none, or they have other genes than the data set.
    """
    if prediction is None:
        msg = "the run has no predictions"
        raise NotApplicable(msg)
    if prediction.mean.shape[1] != ds.n_genes:
        msg = f"the predictions have {prediction.mean.shape[1]} genes, the data set {ds.n_genes}"
        raise NotApplicable(msg)
    # Names of rows count before their positions, as in scoring.
    named = prediction.row_id
    idx = prediction.idx if named is None else ds.obs.index.get_indexer(named.tolist())
    inside = (idx >= 0) & (idx < ds.n_obs)
    keep = inside & np.isin(idx, split.rows(ds, "test"))
    if not keep.any():
        msg = "the run predicts no test row"
        raise NotApplicable(msg)
    rows, source = idx[keep], prediction.rows[keep]
    order = np.argsort(rows)
    rows, source = rows[order], source[order]
    mean, var = prediction.mean, prediction.var
    if prediction.genes is not None and not np.array_equal(prediction.genes, ds.genes):
        place = {str(g): i for i, g in enumerate(prediction.genes)}
        if set(place) != set(ds.genes.tolist()):
            msg = "the predictions name other genes than the data set"
            raise NotApplicable(msg)
        columns = [place[str(g)] for g in ds.genes]
        mean, var = mean[:, columns], var[:, columns]
    present, codes = np.unique(ds.condition_codes[rows], return_inverse=True)
    return _Served(
        rows=rows,
        mean=mean[source].astype(np.float64),
        var=var[source].astype(np.float64),
        codes=codes,
        keys=[str(k) for k in ds.conditions.index[present]],
    )


@RUN_CHECKS.register("truth_in_predictions", order=50)
def truth_in_predictions(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find predictions that contain the observed test data.

    There are three signs: predicted means equal to the observed ones; predicted means that correlate with
    them more than a noise-free prediction could (more than the square root of their reliability, estimated
    from halves of the cells); predictions of single rows that follow the expression of the same cell within a
    condition.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.
    """
    served = _served(ds, split, run.prediction)
    table = condition_table(ds, served.rows)
    truths = list(table.delta.values())
    predicted = group_moments(served.mean, served.codes, len(served.keys)).mean
    scale = max(float(np.abs(truths[0]).max()), 1e-12)
    equal = np.zeros(len(served.keys), dtype=np.bool_)
    for truth in truths:
        gap = np.abs(predicted - truth).max(axis=1) / scale
        equal |= (gap < EQUAL) & (np.abs(truth).max(axis=1) > 0)
        # A copy of another amplitude is a copy.
        gap = np.abs(scaled_to(truth, predicted) * predicted - truth).max(axis=1) / scale
        equal |= (gap < EQUAL) & enough_to_scale(truth)
    hit = [k for k, same in zip(served.keys, equal, strict=True) if same]
    if hit:
        message = f"{len(hit)} predicted conditions equal what was observed, e.g. {hit[:1]}; predict without the test cells"
        return finding("truth_in_predictions", hit, message)
    own = _own_cells(ds, served)
    if own is not None:
        r, p = own
        if r > MIN_RESIDUAL and p < MAX_P:
            message = (
                f"predictions of single rows follow their own cells within a condition (r = {r:.2f}, p = {p:.1g}), "
                "which pseudobulk does not allow; predict without the test cells"
            )
            return finding("truth_in_predictions", served.keys, message)
    close = closer_than_noise_free(ds, served.rows, served.codes, predicted)
    if close is None:
        return []
    hit = [served.keys[c] for c in close.codes]
    return finding("truth_in_predictions", hit, f"{close.said}; predict without the test cells")


def scaled_to(truth: FloatArray, predicted: FloatArray, s2: FloatArray | None = None) -> FloatArray:
    """Return float64 [C, 1], the factor, 0 or more, by which each prediction is nearest to the truth.

    Parameters
    ----------
    truth, predicted
        Observed and predicted deltas [C, G].
    s2
        Sampling variances of the truth [C, G], by which genes are weighted; those of 0 count for nothing.
    """
    weight = 1.0 if s2 is None else np.divide(1.0, s2, out=np.zeros_like(s2), where=s2 > 0)
    inner = (weight * predicted * truth).sum(axis=1, keepdims=True)
    own = (weight * predicted * predicted).sum(axis=1, keepdims=True)
    factor: FloatArray = np.divide(inner, own, out=np.zeros_like(own), where=own > 0)
    return np.maximum(factor, 0.0)


def enough_to_scale(truth: FloatArray) -> BoolArray:
    """Return bool [C], whether so many genes change that a multiple of all of them is no chance."""
    return np.asarray((truth != 0).sum(axis=1) >= MIN_CHANGED, dtype=np.bool_)


def _own_cells(ds: PerturbDataset, served: _Served) -> tuple[float, float] | None:
    """Return (correlation, p-value) of predicted and observed deviations from the condition mean.

    The correlation is the median over cells of those over genes.

    None if the data are not single cells, or too few predictions vary within conditions.
    """
    if ds.metadata.level != "cell" or ds.expression is None:
        return None
    wiggle = served.mean - group_moments(served.mean, served.codes, len(served.keys)).mean[served.codes]
    if np.abs(wiggle).max() < 1e-9:
        return None
    picked = take_rows(ds.expression, served.rows)
    X = np.asarray(picked.toarray() if hasattr(picked, "toarray") else picked, dtype=np.float64)
    X -= group_moments(X, served.codes, len(served.keys)).mean[served.codes]
    norm = np.sqrt((wiggle**2).sum(axis=1) * (X**2).sum(axis=1))
    ok = norm > 0
    if ok.sum() < MIN_CONDITIONS:
        return None
    r = (wiggle * X).sum(axis=1)[ok] / norm[ok]
    test = stats.wilcoxon(r, alternative="greater") if np.any(r != 0) else None
    return float(np.median(r)), 1.0 if test is None else float(test.pvalue)


@dataclass(frozen=True, eq=False)
class Close:
    """Predictions that are nearer to the test cells than the truth is: positions of their conditions, and a sentence."""

    codes: IntArray
    said: str


def closer_than_noise_free(
    ds: PerturbDataset,
    rows: IntArray,
    codes: IntArray,
    predicted: FloatArray,
    present: IntArray | None = None,
) -> Close | None:
    """Return which predictions are closer to the observed means than noise-free ones could be, None if that shows in none.

    Parameters
    ----------
    ds
        The data set.
    rows, codes
        Test rows, ascending, and the condition of each.
    predicted
        Predicted deltas of the conditions [C, G], in the order of the data set's.
    present
        Conditions that are predicted; all if None.
    """
    if ds.metadata.level != "cell" or not ds.has_controls:
        return None
    counts = np.bincount(codes, minlength=len(predicted))
    # Number of each row within its condition; even and odd rows make the two halves.
    position = np.empty(len(rows), dtype=np.int64)
    order = np.argsort(codes, kind="stable")
    position[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    enough = counts >= 8
    if present is not None:
        enough &= np.isin(np.arange(len(enough)), present)
    if enough.sum() < MIN_CONDITIONS:
        return None
    # Of conditions with enough rows alone, so that the tables below have the same conditions.
    chosen = np.flatnonzero(enough)
    inside = enough[codes]
    halves = [condition_table(ds, rows[inside & (position % 2 == h)]) for h in (0, 1)]
    # One half against input, the other against reference controls: noise of shared controls would look like
    # signal.
    first, second = halves[0].delta["input"], halves[1].delta["reference"]
    whole = condition_table(ds, rows[inside]).delta["reference"]
    gaps = []
    for i, c in enumerate(chosen):
        r_half = max(_pearson(first[i], second[i]), 0.0)
        # Spearman-Brown: reliability of the whole from the correlation of halves; the correlation of the
        # noise-free truth with the observed mean is its square root.
        bound = float(np.sqrt(2 * r_half / (1 + r_half)))
        gaps.append(_pearson(predicted[c], whole[i]) - bound)
    values = np.asarray(gaps)
    if np.median(values) <= MARGIN:
        return None
    p = float(stats.binomtest(int((values > MARGIN).sum()), len(values), 0.5, alternative="greater").pvalue)
    if p > MAX_P_CLOSE:
        return None
    return Close(
        chosen[values > MARGIN],
        f"predictions of {int((values > MARGIN).sum())} of {len(values)} conditions correlate with the test cells by "
        f"{np.median(values):.2f} more than a noise-free predictor could (p = {p:.1g})",
    )


def _pearson(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / norm) if norm > 0 else 0.0


@RUN_CHECKS.register("truth_in_variances", order=50)
def truth_in_variances(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find predicted variances equal to observed ones, which only the test cells can give.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.

    Raises
    ------
    NotApplicable
        If the run has no variances of test rows, or the data allow no estimate of them.
    """
    served = _served(ds, split, run.prediction)
    if run.prediction is not None and run.prediction.var_filled:
        msg = "the predictions state no variance"
        raise NotApplicable(msg)
    table = condition_table(ds, served.rows)
    if table.s2_source == "unknown":
        msg = "the data show no variance of a condition's mean"
        raise NotApplicable(msg)
    predicted = group_moments(served.var, served.codes, len(served.keys)).mean
    sides: list[FloatArray] = [table.s2_pert, *(table.s2_pert + s2 for s2 in table.s2_control.values())]
    # The variance of single cells as well: that of the mean times the number of cells.
    raw = table.s2_pert * table.n[:, None]
    hit: list[str] = []
    for observed in (*sides, raw):
        positive = observed > 0
        close = (np.abs(predicted - observed) <= 1e-3 * observed) & positive
        share = close.sum(axis=1) / np.maximum(positive.sum(axis=1), 1)
        hit += [k for k, s in zip(served.keys, share, strict=True) if s > 0.5 and k not in hit]
    return finding(
        "truth_in_variances",
        hit,
        f"predicted variances of {len(hit)} conditions are the observed ones, e.g. {hit[:1]}; "
        "test conditions' variance and n may not be read",
    )
