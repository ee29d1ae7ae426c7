"""Wilcoxon rank sums of many groups of cells against one set of control cells, from sorted keys of one gene.

A key is a value's code in the upper bits and its group in the lower ones, 0 for controls, so that one sort orders the
controls and all groups together. Zeros are one block of ties that is counted, not sorted. All sums are whole numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr

from perturbfm_core.schema import BoolArray, FloatArray, IntArray


def group_bits(n_groups: int) -> int:
    """Return how many bits of a key the numbers 0 to `n_groups` take."""
    return int(n_groups).bit_length()


def rank_sums(
    keys: Any, present: IntArray, sizes: IntArray, n_controls: int
) -> tuple[FloatArray, FloatArray]:
    """Return (two times Mann-Whitney U, sum of t^3 - t over tied values) of each group [P] against the controls.

    Ties count one half in U, and the tied values are those of group and controls together.

    Parameters
    ----------
    keys
        Unsigned whole numbers [n], sorted, of all values but zeros; groups are 1 to P, P + 1 is of no account.
    present
        Number of values of each group that are not zero [P].
    sizes
        Number of cells of each group [P].
    n_controls
        Number of control cells.
    """
    K = len(sizes) + 2
    bits = group_bits(K - 1)
    n = len(keys)
    if not n:
        absent = np.asarray(sizes, dtype=np.float64)
        return absent * n_controls, _cubed(absent + n_controls)
    starts = np.flatnonzero(_changes(keys))
    count = np.empty(len(starts))
    np.subtract(starts[1:], starts[:-1], out=count[:-1], casting="unsafe")
    count[-1] = n - starts[-1]
    distinct = keys[starts]
    group = (distinct & ((1 << bits) - 1)).astype(np.int64)
    first = np.flatnonzero(_changes(distinct >> bits))
    lengths = np.append(first[1:], len(distinct)) - first
    # Within a value the controls come first: how many have it, and how many it or a smaller one.
    controls = np.where(group[first] == 0, count[first], 0.0)
    equal = np.repeat(controls, lengths)
    upto = np.cumsum(np.where(group == 0, count, 0.0))
    # Below a value are the controls before its run; equal ones count one half, so twice U counts both sums.
    weights = count * (2.0 * upto - equal)
    twice: FloatArray = np.asarray(np.bincount(group, weights=weights, minlength=K)[1:-1])
    zero_controls = n_controls - float(upto[-1])
    zeros = sizes - present
    # A zero control is below every stored value and equal to every zero.
    twice = twice + 2.0 * zero_controls * present + zeros * zero_controls
    ties: FloatArray = _cubed(zeros + zero_controls) + _cubed(controls).sum()
    # The controls' own term is in every group's sum already; a group adds what its cells raise it by, which is
    # (e + c)^3 - (e + c) less e^3 - e.
    more = count * (3.0 * equal * (equal + count) + count * count - 1.0)
    ties += np.bincount(group, weights=more, minlength=K)[1:-1]
    return twice, ties


def _changes(values: Any) -> BoolArray:
    """Return bool [n], whether each value differs from the one before it."""
    new = np.empty(len(values), dtype=np.bool_)
    new[0] = True
    np.not_equal(values[1:], values[:-1], out=new[1:])
    return new


def _cubed(t: FloatArray) -> FloatArray:
    return np.asarray(t * t * t - t)


def normal_scores(twice_u: FloatArray, ties: FloatArray, sizes: IntArray, n_controls: int) -> FloatArray:
    """Return the standard normal scores [P, G] of rank sums, corrected for ties; 0 where all values are equal.

    Parameters
    ----------
    twice_u, ties
        See `rank_sums`, [P, G].
    sizes
        Number of cells of each group [P].
    n_controls
        Number of control cells.
    """
    n, m = sizes.astype(np.float64)[:, None], float(n_controls)
    both = n + m
    correction = 1.0 - ties / np.maximum(both**3 - both, 1.0)
    sd = np.sqrt(np.maximum(correction, 0.0) * n * m * (both + 1.0) / 12.0)
    gap = (twice_u - n * m) / 2.0
    return np.divide(gap, sd, out=np.zeros_like(gap), where=sd > 0)


def two_sided_p(scores: FloatArray) -> FloatArray:
    """Return the two-sided p-values of standard normal scores; exact to a few units of the last digit."""
    return np.asarray(2.0 * ndtr(-np.abs(scores)))
