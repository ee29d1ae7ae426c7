"""Mann-Whitney U of many groups of cells against one set of controls, for every gene at once.

A cell's value and its group are packed into one 64-bit integer (value in the upper half, group in the lower half,
0 for controls), so that one sort per gene orders controls and all groups together. Zeros are counted, not sorted. All
sums are exact integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.special import ndtr

from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups, column_sums
from perturbfm_core.schema import FloatArray, IntArray

_CODE_BITS = np.uint64(32)
_CODE_MASK = np.uint64(0xFFFFFFFF)
_ZERO = np.uint64(0x80000000)


@dataclass(frozen=True, eq=False)
class Controls:
    """Control cells, prepared once for all comparisons with them.

    Attributes
    ----------
    n
        Number of cells.
    mean
        float64 [G], mean expression.
    keys
        uint64 [S], the packed non-zero values, gene after gene.
    starts
        int64 [G + 1], where each gene's keys begin.
    """

    n: int
    mean: FloatArray
    keys: Any
    starts: IntArray


@dataclass(frozen=True, eq=False)
class RankSums:
    """Rank statistics of each group and gene.

    Attributes
    ----------
    statistic
        float64 [P, G], U of the group over the controls, ties counting one half.
    ties
        float64 [P, G], sum of t^3 - t over the tied values of group and controls together.
    mean
        float64 [P, G], mean expression of the group.
    """

    statistic: FloatArray
    ties: FloatArray
    mean: FloatArray


def prepare_controls(X: Any) -> Controls:
    """Return the control cells [n, G] (CSR or dense, log1p) ready for `rank_sums`."""
    values, _, starts = _columns(X)
    mean = column_sums(X, np.asarray([X.shape[0]]))[0] / X.shape[0]
    return Controls(X.shape[0], mean, _ordered(values) << _CODE_BITS, starts)


def rank_sums(groups: CellGroups, controls: Controls) -> RankSums:
    """Return U, the tie term and the mean of every group [P] and gene [G] against the controls.

    Values are compared in single precision.
    """
    shape = (len(groups), groups.n_genes)
    out = RankSums(np.empty(shape), np.empty(shape), np.empty(shape))
    for first, last, X in groups.blocks():
        sizes = groups.sizes[first:last]
        out.mean[first:last] = column_sums(X, sizes) / sizes[:, None]
        owner = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.uint64), sizes)
        values, rows, starts = _columns(X)
        for g in range(groups.n_genes):
            part = slice(starts[g], starts[g + 1])
            control = controls.keys[controls.starts[g] : controls.starts[g + 1]]
            keys = np.concatenate([control, (_ordered(values[part]) << _CODE_BITS) | owner[rows[part]]])
            keys.sort()
            twice_u, ties = _one_gene(keys, sizes, controls.n, len(control))
            out.statistic[first:last, g] = twice_u
            out.ties[first:last, g] = ties
    out.statistic[...] *= 0.5
    return out


def two_sided_p(statistic: FloatArray, ties: FloatArray, sizes: IntArray, n_controls: int) -> FloatArray:
    """Return the two-sided asymptotic p-values [P, G], corrected for ties and continuity.

    A gene without any variation has p = 1. Same values as ``scipy.stats.mannwhitneyu(method="asymptotic")``.

    Parameters
    ----------
    statistic
        Mann-Whitney U of the groups over the controls [P, G].
    ties
        Sum of t^3 - t over tied values [P, G].
    sizes
        Number of cells of each group [P].
    n_controls
        Number of control cells.
    """
    n1, n2 = sizes.astype(np.float64)[:, None], float(n_controls)
    n = n1 + n2
    larger = np.maximum(statistic, n1 * n2 - statistic)
    variance = n1 * n2 / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)))
    sd = np.sqrt(np.maximum(variance, 0.0))
    flat = sd <= 0
    z = np.divide(larger - n1 * n2 / 2.0 - 0.5, sd, out=np.full_like(sd, -np.inf), where=~flat)
    return np.asarray(np.clip(2.0 * ndtr(-z), 0.0, 1.0))


def _columns(X: Any) -> tuple[FloatArray, IntArray, IntArray]:
    """Return (non-zero values, their rows, where each column starts), column after column."""
    if sp.issparse(X):
        columns = sp.csc_array(X)
        values = columns.data.astype(np.float32, copy=False)
        rows, starts = columns.indices, columns.indptr
        if len(values) and not values.all():
            keep = values != 0
            starts = np.concatenate([[0], np.cumsum(keep)])[starts]
            values, rows = values[keep], rows[keep]
        return values, rows, starts
    transposed = np.ascontiguousarray(np.asarray(X, dtype=np.float32).T)
    present = transposed != 0
    starts = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    rows = np.flatnonzero(present) % transposed.shape[1]
    return transposed[present], rows, starts


def _ordered(values: FloatArray) -> Any:
    """Return uint64 [n] < 2^32 in the order of the float32 values."""
    # IEEE 754 bits order positive floats; negative ones are inverted, and the sign bit puts positive ones above them.
    bits = values.view(np.uint32)
    negative = (bits >> np.uint32(31)).astype(np.bool_)
    return np.where(negative, ~bits, bits | np.uint32(_ZERO)).astype(np.uint64)


def _one_gene(keys: Any, sizes: IntArray, n_controls: int, stored: int) -> tuple[FloatArray, IntArray]:
    """Return (2 U, tie term), whole numbers [P], of one gene from its sorted keys."""
    P = len(sizes)
    code = (keys & _CODE_MASK).astype(np.int64)
    zero_controls = n_controls - stored
    # Stored controls at or below each element: within equal values the controls come first. Twice U counts 2 for each
    # control below an element and 1 for each equal one; equal ones are counted as 2 here and corrected below.
    below = np.cumsum(code == 0)
    twice = 2.0 * np.bincount(code, weights=below, minlength=P + 1)[1:]
    present = np.bincount(code, minlength=P + 1)[1:]
    n_negative = int(np.searchsorted(keys, _ZERO << _CODE_BITS))
    positive = present if not n_negative else np.bincount(code[n_negative:], minlength=P + 1)[1:]
    negative_controls = 0 if not n_negative else int(below[n_negative - 1])
    zeros = sizes - present
    # Zeros are not stored. A zero control is below every positive element and equal to every zero element.
    twice += 2.0 * zero_controls * positive + zeros * (2.0 * negative_controls + zero_controls)
    ties = _cubed(zeros + zero_controls)

    value = keys >> _CODE_BITS
    same = value[1:] == value[:-1]
    if same.any():
        tied = np.zeros(len(keys), dtype=np.bool_)
        tied[1:] |= same
        tied[:-1] |= same
        runs, count = _runs(keys[tied])
        group = (runs & _CODE_MASK).astype(np.int64)
        values = runs >> _CODE_BITS
        starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        # For each tied value the number of controls that have it, then repeated for each group that has it.
        tied_controls = np.where(group[starts] == 0, count[starts], 0)
        ties += int(_cubed(tied_controls).sum())
        equal = np.repeat(tied_controls, np.diff(np.append(starts, len(values))))
        twice -= np.bincount(group, weights=count * equal, minlength=P + 1)[1:]
        # The controls' own term is in every group's sum already; a group adds what its cells raise it by.
        more = _cubed(equal + count) - _cubed(equal)
        ties = ties + np.bincount(group, weights=more, minlength=P + 1)[1:].astype(np.int64)
    return twice, ties


def _runs(keys: Any) -> tuple[Any, IntArray]:
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[starts], np.diff(np.append(starts, len(keys)))


def _cubed(t: IntArray) -> IntArray:
    return np.asarray(t * t * t - t)
