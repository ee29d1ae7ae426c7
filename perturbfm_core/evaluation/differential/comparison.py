"""One comparison of groups of cells with controls: its options, p-values, adjusted p-values and fold changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from perturbfm_core.evaluation.differential.ranksum import normal_scores, two_sided_p
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

ALPHA = 0.05
PER_MILLION = 1e6


@dataclass(frozen=True)
class DifferentialTest:
    """What differs between peers that compare groups of cells with controls.

    Attributes
    ----------
    mean
        ``arithmetic``, or ``geometric`` for means of log1p values.
    epsilon
        Added to both means of a fold change.
    min_control_cpm
        Genes are tested whose mean per million in the controls is larger; None: all. For counts only.
    target_sum
        Depth to which counts are scaled.
    continuity
        Whether the normal approximation is corrected for continuity.
    absent_change
        Fold change of a gene that is in neither group nor controls; NaN is never significant.
    """

    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    epsilon: float = 1e-9
    min_control_cpm: float | None = 5.0
    target_sum: float = PER_MILLION
    continuity: bool = False
    absent_change: float = float("nan")


@dataclass(frozen=True, eq=False)
class GeneStatistics:
    """What a comparison says of every group and gene [P, G]; NaN for genes that are not tested, scores 0.

    Attributes
    ----------
    score
        float64, standard normal score of the rank sum.
    p, p_adj
        float64, two-sided p-values, and these adjusted over the tested genes of each group.
    lfc
        float64, log2 fold change of the means.
    """

    score: FloatArray
    p: FloatArray
    p_adj: FloatArray
    lfc: FloatArray


def gene_statistics(
    sums: tuple[FloatArray, FloatArray],
    sizes: tuple[IntArray, int],
    means: tuple[FloatArray, FloatArray],
    test: DifferentialTest,
    tested: BoolArray | None = None,
) -> GeneStatistics:
    """Return p-values, adjusted p-values and fold changes.

    Parameters
    ----------
    sums
        (two times Mann-Whitney U, tie term) of each group and gene [P, G].
    sizes
        (number of cells of each group [P], number of controls).
    means
        Means of the groups [P, G] and of the controls [G] in linear scale.
    test
        The options.
    tested
        Genes that are tested [G]; None: all.
    """
    mean, control = means
    if tested is None:
        tested = np.ones(len(control), dtype=np.bool_)
    gap, sd = normal_scores(*sums, *sizes)
    score = np.divide(gap, sd, out=np.zeros_like(gap), where=tested & (sd > 0))
    p = np.where(tested, two_sided_p(gap, sd, continuity=test.continuity), np.nan)
    lfc = log2_fold_change(mean, control, test.epsilon)
    lfc[np.isnan(lfc) & (mean == 0) & (control == 0)] = test.absent_change
    lfc = np.where(tested, lfc, np.nan)
    p_adj = np.full_like(p, np.nan)
    p_adj[:, tested] = adjusted(p[:, tested])
    p_adj[np.isnan(lfc) & tested] = 1.0
    return GeneStatistics(score, p, p_adj, lfc)


def adjusted(p: FloatArray) -> FloatArray:
    """Return Benjamini-Hochberg adjusted p-values [P, G], each row by itself."""
    G = p.shape[1]
    order = np.argsort(p, axis=1)
    scaled = np.take_along_axis(p, order, axis=1) * (G / np.arange(1, G + 1))
    scaled = np.minimum.accumulate(scaled[:, ::-1], axis=1)[:, ::-1]
    out = np.empty_like(p)
    np.put_along_axis(out, order, np.clip(scaled, 0.0, 1.0), axis=1)
    return out


def log2_fold_change(mean: FloatArray, control: FloatArray, epsilon: float) -> FloatArray:
    """Return log2((mean + epsilon) / (control + epsilon)) [P, G], NaN where both are 0 and infinite where one is.

    Parameters
    ----------
    mean
        Means of the groups [P, G].
    control
        Means of the controls [G].
    epsilon
        Added to both.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log2((mean + epsilon) / (control + epsilon)))
