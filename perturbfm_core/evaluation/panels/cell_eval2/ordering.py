"""The order of counts per depth, and which of them are equal, as whole numbers that sort fast.

Ranks depend on which values are equal. Those of counts are equal where the C library's ln(1 + x) of them is: values
that differ in the last digit often have one logarithm. Vector units round it differently, so that ties would differ
between machines; here only neighbours whose logarithms may be equal are compared, one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perturbfm_core.schema import FloatArray, IntArray

# Entries of the table of (count, depth).
_TABLE = 1 << 20
# Logarithms differ for sure beyond this distance relative to 1 + x: 4 units of the last digit of 14.
_CLOSE = 8e-15


def value_codes(values: FloatArray, *, merge: bool) -> IntArray:
    """Return whole numbers in the order of the values [n], equal for equal ones.

    Parameters
    ----------
    values
        Not negative.
    merge
        Whether values with the same ln(1 + x) are equal.
    """
    order = np.argsort(values)
    ranked = values[order]
    codes = np.empty(len(values), dtype=np.int64)
    codes[order] = _running(ranked, merge=merge)
    return codes


def _running(ranked: FloatArray, *, merge: bool) -> IntArray:
    """Return the codes of values in ascending order."""
    new = np.empty(len(ranked), dtype=np.bool_)
    new[:1] = False
    gap = ranked[1:] - ranked[:-1]
    np.greater(gap, 0, out=new[1:])
    if merge:
        close = np.flatnonzero(new[1:] & (gap <= _CLOSE * (1.0 + ranked[1:])))
        for i in close:
            new[i + 1] = math.log1p(ranked[i]) != math.log1p(ranked[i + 1])
    return np.cumsum(new)


@dataclass(frozen=True, eq=False)
class DepthTable:
    """Codes of all small counts at all depths.

    Attributes
    ----------
    codes
        uint32 [largest + 1, D], flattened.
    n_depths
        D.
    largest
        The largest count that is listed.
    """

    codes: IntArray
    n_depths: int
    largest: int


def depth_table(depths: FloatArray, largest: int) -> DepthTable:
    """Return the codes of the counts up to `largest`, as far as the table's size allows.

    Parameters
    ----------
    depths
        Distinct divisors of the counts [D].
    largest
        The largest count that occurs.
    """
    limit = min(largest, max(1, _TABLE // max(len(depths), 1)))
    values = np.arange(limit + 1, dtype=np.float64)[:, None] / depths
    codes = value_codes(values.ravel(), merge=True)
    return DepthTable(codes.astype(np.uint32), len(depths), limit)
