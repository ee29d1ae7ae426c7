"""Expression profiles of groups of cells, and what sampling adds to their squared distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells
from perturbfm_core.schema import FloatArray

BULK_TARGET_SUM = 5e4
# Groups of fewer cells, or with a cell of more than this share of the others' counts, are summed cell by cell.
_FEW = 12
# Cells that are looked at together.
_ROWS = 128
_LARGEST_STEP = 0.2
# Terms of the series of log1p at the largest step: 0.2^24 is below double precision.
_TERMS = 24


@dataclass(frozen=True, eq=False)
class Profiles:
    """Profile of each group.

    Attributes
    ----------
    means
        float64 [K, G].
    correction
        float64 [K], expected squared distance of a profile from its expectation, summed over genes; 0 for groups of
        one cell.
    mass_target
        What the profiles' expression sums to.
    """

    means: FloatArray
    correction: FloatArray
    mass_target: float


def profiles(cells: LabelledCells) -> Profiles:
    """Return the profiles of all groups: of summed counts, or means of log1p values."""
    if cells.input_type == "counts":
        sums, correction = sums_and_jackknife(cells)
        return Profiles(bulk_lognorm(sums), correction, BULK_TARGET_SUM)
    means, correction = means_and_variance(cells)
    return Profiles(means, correction, 1e6)


def group_means(cells: LabelledCells) -> FloatArray:
    """Return the mean of each group [K, G] in double precision."""
    return means_and_variance(cells)[0]


def bulk_lognorm(sums: FloatArray, target_sum: float = BULK_TARGET_SUM) -> FloatArray:
    """Return ln(1 + target_sum times the share of each gene) [K, G]; groups without counts are 0."""
    totals = sums.sum(axis=1)
    scale = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    return np.asarray(np.log1p(sums * scale[:, None]))


def means_and_variance(cells: LabelledCells) -> tuple[FloatArray, FloatArray]:
    """Return (means [K, G], variance summed over genes and divided by the number of cells [K])."""
    K, n = len(cells.names), cells.sizes.astype(np.float64)
    means, squares = np.zeros((K, cells.X.shape[1])), np.zeros(K)
    for k in range(K):
        X = cells.of_group(k)
        values = X.data.astype(np.float64)
        squares[k] = _squared(values)
        # Multiplied before they are added, as a mean of a sparse matrix is: the last digit decides what is a tie.
        means[k] = _gene_sums(X, values * (1.0 / max(n[k], 1.0)))
    within = squares - n * np.einsum("ij,ij->i", means, means)
    return means, np.divide(within, n * (n - 1), out=np.zeros_like(n), where=n >= 2)


def _squared(values: FloatArray) -> float:
    """Return the sum of squares, on one thread: vectors this short gain nothing from more."""
    return float(np.einsum("i,i->", values, values))


def _gene_sums(X: Any, values: FloatArray) -> FloatArray:
    """Return float64 [G], the sum of each gene of CSR cells [n, G] with other values, cell after cell."""
    by_gene = sp.csc_array((values, X.indices, X.indptr), shape=X.shape[::-1])
    return np.asarray(by_gene @ np.ones(X.shape[0]))


def sums_and_jackknife(
    cells: LabelledCells, target_sum: float = BULK_TARGET_SUM
) -> tuple[FloatArray, FloatArray]:
    """Return (sums of counts [K, G], (n - 1) / n times the squared spread of the leave-one-out profiles [K]).

    Leaving out cell i moves a gene's profile by log1p(w e_i - c y_i (1 + e_i)): e_i is the cell's share of the other
    cells' counts, y_i its count of the gene, w = a / (1 + a) and c = target_sum / S / (1 + a), a the gene's scaled
    sum. So it is log1p(w e_i) for all cells, whose sum is a short series, and a change for the cells with counts.
    """
    K = len(cells.names)
    sums, correction = np.zeros((K, cells.X.shape[1])), np.zeros(K)
    for k in range(K):
        X, totals = cells.of_group(k), cells.totals[cells.rows[k]]
        sums[k] = _gene_sums(X, X.data.astype(np.float64))
        if len(totals) >= 2 and totals.any():
            correction[k] = _jackknife(X, totals, sums[k], target_sum)
    return sums, correction


def _jackknife(X: Any, totals: FloatArray, sums: FloatArray, target_sum: float) -> float:
    """Return (n - 1) / n times the squared spread of the leave-one-out profiles of CSR cells [n, G]."""
    n = len(totals)
    left = totals.sum() - totals
    # A cell with all the counts of its group leaves nothing, as if the others had no share.
    step = np.divide(totals, left, out=np.zeros_like(left), where=left > 0)
    scale = target_sum / totals.sum()
    above = 1.0 + scale * sums
    slope, weight = scale / above, scale * sums / above
    first, second = _series_sums(step, weight)
    cross = 0.0
    for start in range(0, n, _ROWS):
        part = X[start : start + _ROWS] if n > _ROWS else X
        # Indices are never out of bounds; clipping is the fast way.
        w, c = (v.take(part.indices, mode="clip") for v in (weight, slope))
        e = np.repeat(step[start : start + _ROWS], np.diff(part.indptr))
        kept = w * e
        e += 1.0
        e *= c
        e *= part.data
        moved = np.log1p(np.subtract(kept, e, out=e))
        kept = np.log1p(kept, out=kept)
        cross += _squared(moved) - _squared(kept)
        first += _gene_sums(part, np.subtract(moved, kept, out=moved))
    spread = cross + float((second - first**2 / n).sum())
    return max((n - 1) / n * spread, 0.0)


def _series_sums(step: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the sums over cells of log1p(weight * step) and of its square, one per gene [G]."""
    largest = float(step.max(initial=0.0))
    if len(step) < _FEW or largest > _LARGEST_STEP:
        one, two = np.zeros_like(weight), np.zeros_like(weight)
        for e in step:
            moved = np.log1p(weight * e)
            one += moved
            two += moved * moved
        return one, two
    if largest == 0.0:
        return np.zeros_like(weight), np.zeros_like(weight)
    terms = min(_TERMS, int(np.ceil(np.log(1e-18) / np.log(largest))) + 2)
    order = np.arange(1, terms + 1)
    series = np.where(order % 2, 1.0, -1.0) / order
    square = np.convolve(series, series)[: terms - 1]
    moments = (step[:, None] ** order).sum(axis=0)
    one = np.polynomial.polynomial.polyval(weight, np.concatenate([[0.0], series * moments]))
    two = np.polynomial.polynomial.polyval(weight, np.concatenate([[0.0, 0.0], square * moments[1:]]))
    return np.asarray(one), np.asarray(two)
