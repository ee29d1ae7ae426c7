"""Differential expression by Welch's t-test on log1p values, and gene subsets chosen by it.

Definitions: scPerturBench (bm2-lab/scPerturBench), which ranks genes with scanpy's ``t-test`` of the perturbed
cells against the control cells; every gene is tested, on values in log1p units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from perturbfm_core.evaluation.ties import by_name
from perturbfm_core.schema import FloatArray, IntArray, StrArray

TOPS = (20, 50, 100, 5000)
_BLOCK = 2048
# Added to back-transformed means, so that a gene absent from one side has a finite fold change.
_PSEUDO = 1e-9


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and unbiased variance of each gene over cells.

    Attributes
    ----------
    n
        Number of cells.
    mean, var
        float64 [G]; `var` is NaN for fewer than two cells.
    """

    n: int
    mean: FloatArray
    var: FloatArray


def moments(X: FloatArray) -> Moments:
    """Return the moments of cells [n, G]: the mean of squares minus the squared mean, times n / (n - 1).

    Squares are taken in the precision of `X` and summed in double precision, as scanpy does.
    """
    return blocked_moments(len(X), X.shape[1], lambda: (X[a : a + _BLOCK] for a in range(0, len(X), _BLOCK)))


def blocked_moments(n: int, genes: int, blocks: Callable[[], Iterator[FloatArray]]) -> Moments:
    """Return the moments of cells that come in blocks, so that they need not be dense all at once.

    Parameters
    ----------
    n
        Number of cells.
    genes
        Number of genes G.
    blocks
        () -> iterator over the cells in blocks [b, G].
    """
    total, squares = np.zeros(genes), np.zeros(genes)
    for block in blocks():
        total += block.sum(axis=0, dtype=np.float64)
        squares += np.square(block).sum(axis=0, dtype=np.float64)
    if n == 0:
        return Moments(0, np.full(genes, np.nan), np.full(genes, np.nan))
    mean = total / n
    var = squares / n - mean**2
    return Moments(n, mean, var * (n / (n - 1)) if n > 1 else np.full(genes, np.nan))


def welch_scores(group: Moments, control: Moments) -> FloatArray:
    """Return float32 [G], Welch's t of group against control; 0 where it is undefined.

    It is undefined for equal means without variance, and where rounding makes the variance of a constant gene
    negative. As in scanpy, such a gene counts as unchanged.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        # The square of the root keeps a variance as it is and turns a negative one into NaN.
        error = np.sqrt(np.sqrt(group.var) ** 2 / group.n + np.sqrt(control.var) ** 2 / control.n)
        t = (group.mean - control.mean) / error
    return np.asarray(np.where(np.isnan(t), 0.0, t), dtype=np.float32)


def welch_pvalues(group: Moments, control: Moments) -> FloatArray:
    """Return float64 [G], two-sided p values of Welch's test, adjusted over genes by Benjamini-Hochberg."""
    with np.errstate(invalid="ignore", divide="ignore"):
        result = stats.ttest_ind_from_stats(
            group.mean,
            np.sqrt(group.var),
            group.n,
            control.mean,
            np.sqrt(control.var),
            control.n,
            equal_var=False,
        )
    p = np.where(np.isnan(result.pvalue), 1.0, result.pvalue)
    return benjamini_hochberg(p)


def benjamini_hochberg(p: FloatArray) -> FloatArray:
    """Return float64 [G], p values adjusted by the step-up procedure of Benjamini and Hochberg."""
    order = np.argsort(p, kind="stable")
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    out = np.empty(len(p))
    out[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return out


def fold_changes(group: Moments, control: Moments) -> FloatArray:
    """Return float64 [G], ratio of the means after undoing log1p on them (not of the means of counts)."""
    return np.asarray((np.expm1(group.mean) + _PSEUDO) / (np.expm1(control.mean) + _PSEUDO))


def deg_order(scores: FloatArray, names: StrArray | None = None) -> IntArray:
    """Return int [G], genes by decreasing size of score; ties by name, without names in the order of genes.

    scPerturBench breaks ties by an unstable sort, so that its order of ties is not reproducible.
    """
    return np.asarray(by_name(np.abs(scores)[None, :], names)[0])


def changed_order(scores: FloatArray, names: StrArray, largest: int) -> IntArray:
    """Return int [<= largest], the first genes of `deg_order`, without those whose score is 0.

    Parameters
    ----------
    scores
        Scores of genes [G].
    names
        Gene names [G], by which ties are broken, so that the order of columns does not matter.
    largest
        How many genes, at most.
    """
    return deg_order(scores, names)[: min(largest, int((scores != 0).sum()))]


def common_degs(true_order: IntArray, predicted_order: IntArray, top: int) -> float:
    """Return the share of the first `top` true DEGs that are among the first `top` predicted ones.

    A RECONSTRUCTION: the repository of scPerturBench has no code for its Common-DEGs (``DEG_score``). Its author
    describes it as the fraction of overlapping DEGs, and the published values are multiples of 1 / 100. The test,
    order and cut-off of the predicted side are unknown; here they are those of the true side. The denominator is
    always `top`, even where there are fewer genes.

    Parameters
    ----------
    true_order, predicted_order
        Positions of genes by decreasing size of score (see `deg_order`), true and predicted side.
    top
        Number of genes on each side.
    """
    return len(np.intersect1d(true_order[:top], predicted_order[:top], assume_unique=True)) / top
