"""Coverage of prediction intervals, and the groups of genes and conditions it is computed for."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr, ndtri

from perturbfm_core.data.gene_bins import gene_bins as bins_of
from perturbfm_core.data.gene_bins import gene_scale
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.strata import benjamini_hochberg, terciles

FALSE_DISCOVERY_RATE = 0.05
GENE_BINS = 5


def gaussian_half_width(c: Comparison, level: float) -> FloatArray:
    """Return [C, G], half the width of the central Gaussian interval of a level."""
    return np.asarray(float(ndtri(0.5 + level / 2)) * np.sqrt(c.predicted_var))


def interval_half_width(c: Comparison, level: float) -> FloatArray | None:
    """Return [C, G], half the width of the calibrated interval of a level; None where the prediction has none.

    NaN for conditions without an interval, e.g. because too few units were available for calibration.
    """
    if c.intervals is None:
        return None
    at = np.flatnonzero(np.abs(c.intervals.levels - level) < 1e-9)
    return c.intervals.half_width(int(at[0]), c.predicted_var) if len(at) else None


def inside(c: Comparison, half_width: FloatArray, genes: BoolArray | None = None) -> FloatArray:
    """Return [C], the share of genes whose observed delta is within the half-width; NaN without any gene.

    Parameters
    ----------
    c
        The comparison.
    half_width
        Half-widths of the intervals around the predicted delta [C, G], log1p units.
    genes
        Genes to use [C, G]; all by default.
    """
    hit = np.abs(c.observed - c.predicted) <= half_width
    defined = np.isfinite(half_width) if genes is None else np.isfinite(half_width) & genes
    n = defined.sum(axis=1)
    return np.asarray(np.divide((hit & defined).sum(axis=1), n, out=np.full(len(c), np.nan), where=n > 0))


def significant(c: Comparison) -> BoolArray:
    """Return bool [C, G], genes whose observed delta differs from zero beyond sampling noise.

    Two-sided normal test of delta over its sampling standard deviation, false discovery rate 5 % within each
    condition; none where the sampling variance is unknown.
    """

    def compute() -> BoolArray:
        out = np.zeros(c.observed.shape, dtype=np.bool_)
        for i in range(len(c)):
            known = np.flatnonzero(c.s2[i] > 0)
            if len(known):
                z = np.abs(c.observed[i, known]) / np.sqrt(c.s2[i, known])
                out[i, known] = benjamini_hochberg(2 * ndtr(-z), FALSE_DISCOVERY_RATE)
        return out

    return c.once_per_observed("uncertainty.significant", compute)


def predicted_effect(c: Comparison, positions: IntArray | None = None) -> dict[str, str]:
    """Return {condition key: tercile} by predicted effect size; empty where it does not vary.

    Terciles are taken among the conditions at `positions` (default: all).
    """
    positions = np.arange(len(c)) if positions is None else positions
    size = np.linalg.norm(c.predicted[positions], axis=1)
    if len(size) and np.ptp(size) <= 1e-6 * max(float(size.max()), 1e-300):
        return {}
    return terciles(c.conditions.index[positions], size)


def gene_bins(c: Comparison) -> IntArray | None:
    """Return int16 [G], quantile bins of genes by the size of their train deltas; None without a train side."""
    if c.train is None or not len(c.train.delta):
        return None
    return bins_of(gene_scale(c.train.delta), GENE_BINS)


def gap(coverages: list[FloatArray], levels: tuple[float, ...], positions: IntArray) -> float:
    """Return the largest difference of mean coverage from its level, over levels; NaN without coverage.

    Parameters
    ----------
    coverages
        Per level the coverage of each condition [C].
    levels
        Nominal levels, between 0 and 1.
    positions
        Positions of the conditions to average over.
    """
    gaps = [
        abs(float(np.nanmean(v[positions])) - level)
        for v, level in zip(coverages, levels, strict=True)
        if np.isfinite(v[positions]).any()
    ]
    return max(gaps) if gaps else float("nan")
