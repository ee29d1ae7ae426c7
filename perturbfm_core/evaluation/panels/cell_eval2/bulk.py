"""Expression profiles of groups of cells, and what sampling adds to their squared distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells
from perturbfm_core.schema import FloatArray

BULK_TARGET_SUM = 5e4
# Groups of fewer cells, or with a cell of more than this share of the others' counts, are summed cell by cell.
_FEW = 12
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
    K, G = len(cells.names), cells.X.shape[1]
    n = cells.sizes.astype(np.float64)
    means, squares = np.zeros((K, G)), np.zeros(K)
    pointers, slots = cells.X.indptr, cells.group + 1
    # Multiplied before they are added, as a mean of a sparse matrix is: the last digit decides what is a tie.
    share = np.concatenate([[0.0], 1.0 / np.maximum(n, 1.0)])
    for g in range(G):
        part = slice(pointers[g], pointers[g + 1])
        slot, x = slots[cells.X.indices[part].astype(np.intp)], cells.X.data[part].astype(np.float64)
        means[:, g] = np.bincount(slot, weights=x * share[slot], minlength=K + 1)[1:]
        squares += np.bincount(slot, weights=x * x, minlength=K + 1)[1:]
    within = squares - n * np.einsum("ij,ij->i", means, means)
    return means, np.divide(within, n * (n - 1), out=np.zeros_like(n), where=n >= 2)


def sums_and_jackknife(
    cells: LabelledCells, target_sum: float = BULK_TARGET_SUM
) -> tuple[FloatArray, FloatArray]:
    """Return (sums of counts [K, G], (n - 1) / n times the squared spread of the leave-one-out profiles [K]).

    Leaving out cell i moves a gene's profile by log1p(w e_i - c y_i (1 + e_i)): e_i is the cell's share of the other
    cells' counts, y_i its count of the gene, w = a / (1 + a) and c = target_sum / S / (1 + a), a the gene's scaled
    sum. So it is log1p(w e_i) for all cells, whose sum is a short series, and a change for the cells with counts.
    """
    K, G = len(cells.names), cells.X.shape[1]
    slots, n = cells.group + 1, cells.sizes.astype(np.float64)
    total = np.bincount(slots, weights=cells.totals, minlength=K + 1)
    total[0] = 0.0
    left = total[slots] - cells.totals
    # A cell with all the counts of its group leaves nothing, as if the others had no share.
    step = np.divide(cells.totals, left, out=np.zeros_like(left), where=left > 0)
    scale = np.divide(target_sum, total, out=np.zeros_like(total), where=total > 0)
    sums, weights = np.zeros((K, G)), np.zeros((K, G))
    first, second = np.zeros((K, G)), np.zeros(K)
    cross = np.zeros((K, G))
    pointers = cells.X.indptr
    for g in range(G):
        part = slice(pointers[g], pointers[g + 1])
        if part.start == part.stop:
            continue
        # Indexing by numbers of another type than the machine's own takes three times as long.
        rows = cells.X.indices[part].astype(np.intp)
        slot, y, e = slots[rows], cells.X.data[part].astype(np.float64), step[rows]
        own = np.bincount(slot, weights=y, minlength=K + 1)
        above = 1.0 + scale * own
        weight, slope = scale * own / above, scale / above
        sums[:, g], weights[:, g] = own[1:], weight[1:]
        kept = weight[slot] * e
        moved = np.log1p(kept - slope[slot] * y * (1.0 + e))
        kept = np.log1p(kept)
        first[:, g] = np.bincount(slot, weights=moved - kept, minlength=K + 1)[1:]
        cross[:, g] = np.bincount(slot, weights=moved * moved - kept * kept, minlength=K + 1)[1:]
    for k in range(K):
        series = _series_sums(step[cells.rows[k]], weights[k])
        first[k] += series[0]
        second[k] = (cross[k] + series[1] - first[k] ** 2 / max(n[k], 1.0)).sum()
    correction = np.where((n >= 2) & (total[1:] > 0), (n - 1) / np.maximum(n, 1.0) * second, 0.0)
    return sums, np.maximum(correction, 0.0)


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
