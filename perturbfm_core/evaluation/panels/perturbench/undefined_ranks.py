"""Ranks of values of which some are undefined, as in PerturBench: NaN last, each with a rank of its own.

Which of several NaN comes first is left to the peer's sort (the quicksort of numba), which does not keep the order of equal
values; it is followed here step by step.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from perturbfm_core.schema import FloatArray, IntArray

# Shorter ranges are sorted by insertion.
_SHORT = 15
_Less = Callable[[int, int], bool]


def ranks(values: FloatArray, n: int) -> FloatArray:
    """Return float64 [N, G], the rank of each value in its column, ties shared, NaN last.

    Parameters
    ----------
    values
        Cells of a group, then those of its reference [N, G].
    n
        Number of cells of the group. Where only one side has NaN their order does not matter: they share their ranks.
    """
    undefined = np.isnan(values)
    # Ranks in each column are those of all that is defined, and then of NaN.
    out = np.asarray(rankdata(np.where(undefined, np.inf, values), axis=0), dtype=np.float64)
    for j in np.flatnonzero(undefined.any(axis=0)):
        known = ~undefined[:, j]
        n_known = int(known.sum())
        out[known, j] = rankdata(values[known, j])
        out[~known, j] = (n_known + 1 + len(values)) / 2
        if undefined[:n, j].any() and undefined[n:, j].any():
            last = sorted_order(values[:, j])[n_known:]
            out[last, j] = np.arange(n_known + 1, len(values) + 1)
    return out


def sorted_order(values: FloatArray) -> IntArray:
    """Return [N], the places of the values from the smallest to NaN."""
    A = np.asarray(values, dtype=np.float64).tolist()
    R = list(range(len(A)))

    def less(i: int, j: int) -> bool:
        """Return whether the value in place i is before that in place j."""
        return bool(A[i] < A[j] or (A[j] != A[j] and A[i] == A[i]))

    ranges = [(0, len(R) - 1)]
    while ranges:
        low, high = ranges.pop()
        while high - low >= _SHORT:
            at = _partition(R, low, high, less)
            # The larger part is sorted last.
            if high - at > at - low:
                ranges.append((at + 1, high))
                high = at - 1
            else:
                ranges.append((low, at - 1))
                low = at + 1
        _insert(R, low, high, less)
    return np.asarray(R, dtype=np.int64)


def _partition(R: list[int], low: int, high: int, less: _Less) -> int:
    """Divide R[low:high + 1] at the median of its first, middle and last entry, and return where that stands."""
    mid = (low + high) >> 1
    for i, j in ((low, mid), (mid, high), (low, mid)):
        if less(R[j], R[i]):
            R[i], R[j] = R[j], R[i]
    pivot = R[mid]
    R[high], R[mid] = R[mid], R[high]
    i, j = low, high - 1
    while True:
        while i < high and less(R[i], pivot):
            i += 1
        while j >= low and less(pivot, R[j]):
            j -= 1
        if i >= j:
            break
        R[i], R[j] = R[j], R[i]
        i, j = i + 1, j - 1
    R[i], R[high] = R[high], R[i]
    return i


def _insert(R: list[int], low: int, high: int, less: _Less) -> None:
    """Sort R[low:high + 1] by insertion."""
    for i in range(low + 1, high + 1):
        entry, j = R[i], i
        while j > low and less(entry, R[j - 1]):
            R[j] = R[j - 1]
            j -= 1
        R[j] = entry
