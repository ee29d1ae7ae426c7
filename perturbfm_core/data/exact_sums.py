"""Sums of groups of rows that are exact, and so do not depend on the order of the rows or on how they are parted.

A sum of floating-point numbers depends on their order in its last bits. Here each number is cut into whole
multiples of powers of two, which are summed as integers; only the total is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.schema import FloatArray, IntArray

# Limb j counts multiples of 2^(-30 j). A number below 2^12 begins in limb 1; what float32 values of at least
# 2^-7 leave there is nothing, and their squares end in limb 2.
_BITS = 30
# Most bits of one addend, and of a sum of addends: an int64 never overflows.
_ADDEND, _SUM = 42, 62
_ENTRIES = 1 << 19


class ExactSums:
    """Sums by group and column, as integers.

    Parameters
    ----------
    n_groups, width
        Shape of the sums.
    """

    def __init__(self, n_groups: int, width: int) -> None:
        self.shape = n_groups, width
        self.limbs: dict[int, IntArray] = {}
        self._bound: dict[int, int] = {}
        # Sums of values that are not finite.
        self._odd: FloatArray | None = None
        self._normal = False

    def add(self, part: Any, group: IntArray, weights: FloatArray | None = None, *, power: int = 1) -> None:
        """Add ``weight * value**power`` of rows to the sums of their groups.

        Parameters
        ----------
        part
            CSR (no position twice) or dense [n, width].
        group
            int [n], group of each row.
        weights
            float [n], weight of each row (default 1).
        power
            1 or 2.
        """
        width = self.shape[1]
        sparse = sp.issparse(part)
        if sparse:
            part = sp.csr_array(part)
        pointers = part.indptr if sparse else np.arange(len(group) + 1, dtype=np.int64) * width
        start = 0
        while start < len(group):
            # As many rows as have at most `_ENTRIES` values, at least one.
            stop = max(int(np.searchsorted(pointers, pointers[start] + _ENTRIES, "right")) - 1, start + 1)
            first = group[start:stop].astype(np.int64) * width
            if sparse:
                entries = slice(int(pointers[start]), int(pointers[stop]))
                each = np.diff(pointers[start : stop + 1])
                at = np.repeat(first, each) + part.indices[entries]
                values = part.data[entries].astype(np.float64)
            else:
                each = np.full(stop - start, width)
                at = (first[:, None] + np.arange(width)).reshape(-1)
                values = np.asarray(part[start:stop], dtype=np.float64).reshape(-1)
            if power == 2:
                values = np.square(values)
            if weights is not None:
                values = values * np.repeat(weights[start:stop], each)
            self._add(at, values, stop - start)
            start = stop

    def _add(self, at: IntArray, values: FloatArray, most: int) -> None:
        """Add values to the cells at flat positions, each of which occurs at most `most` times."""
        if not len(values):
            return
        top = float(np.max(np.abs(values)))
        if not math.isfinite(top):
            if self._odd is None:
                self._odd = np.zeros(self.shape[0] * self.shape[1])
            finite = np.isfinite(values)
            np.add.at(self._odd, at[~finite], values[~finite])
            at, values = at[finite], values[finite]
            top = float(np.max(np.abs(values), initial=0.0))
        while top:
            # The finest limb in which the largest value has at most `_ADDEND` bits.
            j = (_ADDEND - math.frexp(top)[1]) // _BITS
            whole = np.trunc(_scaled(values, _BITS * j))
            self._into(j, at, whole.astype(np.int64), most << _ADDEND)
            values = values - _scaled(whole, -_BITS * j)
            left = values != 0
            n = int(np.count_nonzero(left))
            if n < len(values):
                at, values = at[left], values[left]
            top = float(np.max(np.abs(values), initial=0.0))

    def _into(self, j: int, at: IntArray, whole: IntArray, bound: int) -> None:
        self._room(j, bound)
        np.add.at(self.limbs[j], at, whole)

    def _room(self, j: int, bound: int) -> None:
        """Make limb `j`, carried over to the next coarser one if `bound` more could be too much for it."""
        if j not in self.limbs:
            self.limbs[j] = np.zeros(self.shape[0] * self.shape[1], dtype=np.int64)
        if self._bound.get(j, 0) + bound >= 1 << _SUM:
            self._carry(j)
        self._bound[j] = self._bound.get(j, 0) + bound
        self._normal = False

    def _carry(self, j: int) -> None:
        high = self.limbs[j] >> _BITS
        if high.any():
            self._room(j - 1, (self._bound.get(j, 0) >> _BITS) + 1)
            self.limbs[j - 1] += high
            self.limbs[j] -= high << _BITS
        self._bound[j] = 1 << _BITS

    def merge(self, limbs: Mapping[int, IntArray], groups: IntArray | None = None) -> None:
        """Add the limbs of other sums.

        Parameters
        ----------
        limbs
            {limb: int64 [k, width]} of the other sums.
        groups
            int [k], distinct groups that these are of (default: all, in order).
        """
        for j, limb in limbs.items():
            self._room(j, max(-int(limb.min()), int(limb.max())) if limb.size else 0)
            own = self.limbs[j].reshape(self.shape)
            if groups is None:
                own += limb.reshape(self.shape)
            else:
                own[groups] += limb

    def total(self, groups: slice = slice(None)) -> FloatArray:
        """Return float64 [k, width], the sums of some groups; those that float64 can hold are exact."""
        self._normalize()
        rows = range(self.shape[0])[groups]
        out = np.zeros((len(rows), self.shape[1]))
        for j in sorted(self.limbs):
            out += _scaled(self.limbs[j].reshape(self.shape)[groups].astype(np.float64), -_BITS * j)
        if self._odd is not None:
            out += self._odd.reshape(self.shape)[groups]
        return out

    def _normalize(self) -> None:
        """Carry from the finest limb to the coarsest, with those between, so that equal sums have equal limbs."""
        if self._normal or not self.limbs:
            return
        for j in range(max(self.limbs), min(self.limbs), -1):
            self._room(j, 0)
            self._carry(j)
        self._normal = True


def _scaled(values: FloatArray, exponent: int) -> FloatArray:
    """Return ``values * 2**exponent``, exactly."""
    if -1000 < exponent < 1000:
        out: FloatArray = values * 2.0**exponent
        return out
    return np.ldexp(values, exponent)
