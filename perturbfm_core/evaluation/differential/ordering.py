"""The order of expression values, and which of them are equal, as whole numbers that sort fast.

Ranks depend on which values are equal. Those of counts per depth are equal where the C library's ln(1 + x) of them is:
values that differ in the last digit often have one logarithm. Vector units round it differently, so that ties would
differ between machines; here only neighbours whose logarithms may be equal are compared, one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbfm_core.schema import FloatArray, IntArray

# Least and most entries of the table of (count, depth), and stored values for each.
_TABLE = 1 << 16
_LARGEST_TABLE = 1 << 24
_VALUES_PER_ENTRY = 64
# Logarithms differ for sure beyond this distance relative to 1 + x: 4 units of the last digit of 14.
_CLOSE = 8e-15
_HALF = np.uint64(32)
_SIGN = np.uint32(0x80000000)


def value_codes(values: FloatArray, *, merge: bool) -> IntArray:
    """Return whole numbers from 0 in the order of the values [n], equal for equal ones.

    Parameters
    ----------
    values
        Of either sign; not negative if merged.
    merge
        Whether values with the same ln(1 + x) are equal.
    """
    order = np.argsort(values)
    codes = np.empty(len(values), dtype=np.uint32)
    codes[order] = _running(values[order], merge=merge)
    return codes


def dense_codes(codes: IntArray, gene: IntArray, n_genes: int) -> tuple[IntArray, IntArray]:
    """Return (codes without gaps [n], the first code of each gene and the end [B + 1]); later genes have larger ones.

    Parameters
    ----------
    codes
        uint32 [n], in the order of the values of each gene.
    gene
        Gene of each [n], from 0.
    n_genes
        Number of genes B.
    """
    order, keys = _ascending(codes, gene, n_genes)
    new = np.ones(len(codes), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    upto = np.cumsum(new, dtype=np.uint32)
    out = np.empty(len(codes), dtype=np.uint32)
    out[order] = upto - np.uint32(1)
    ends = np.cumsum(np.bincount(gene, minlength=n_genes))
    starts = np.zeros(n_genes + 1, dtype=np.int64)
    some = np.flatnonzero(ends)
    starts[some + 1] = upto[ends[some] - 1]
    return out, starts


def _ascending(codes: IntArray, gene: IntArray, n_genes: int) -> tuple[IntArray, IntArray]:
    """Return (order of the codes gene after gene [n], keys in this order [n], which differ where codes or genes do)."""
    bits = len(codes).bit_length()
    keys = gene.astype(np.uint64) << _HALF
    keys |= codes
    if bits + n_genes.bit_length() > _HALF:
        order = np.argsort(keys)
        return order, keys[order]
    # With the place of each value in its key, values are sorted themselves, which is faster than finding their order.
    shift = np.uint64(bits)
    keys <<= shift
    keys |= np.arange(len(codes), dtype=np.uint64)
    keys.sort()
    order = (keys & ((np.uint64(1) << shift) - np.uint64(1))).view(np.int64)
    keys >>= shift
    return order, keys


def ordered_bits(values: FloatArray) -> IntArray:
    """Return uint32 [n] in the order of float32 values."""
    # IEEE 754 bits order positive floats; negative ones are inverted, and the sign bit puts positive ones above them.
    # Adding 0 makes the negative zero a positive one, which it equals.
    bits = (values + np.float32(0.0)).view(np.uint32)
    return np.where((bits & _SIGN).astype(np.bool_), ~bits, bits | _SIGN)


def _running(ranked: FloatArray, *, merge: bool) -> IntArray:
    """Return the codes of values in ascending order."""
    new = np.empty(len(ranked), dtype=np.bool_)
    new[:1] = False
    gap = ranked[1:] - ranked[:-1]
    np.greater(gap, 0, out=new[1:])
    if merge:
        close = np.flatnonzero(new[1:] & (gap <= _CLOSE * (1.0 + ranked[1:])))
        log1p = math.log1p
        differs = [log1p(a) != log1p(b) for a, b in zip(ranked[close], ranked[close + 1], strict=True)]
        new[close + 1] = differs
    return np.cumsum(new, dtype=np.uint32)


@dataclass(frozen=True, eq=False)
class CountCodes:
    """Codes of counts per depth.

    Attributes
    ----------
    depths
        float64 [D], the divisors, ascending.
    table
        uint32 [largest + 1, D], flattened: codes of all small counts at all depths.
    largest
        The largest count of the table.
    others
        float64 [n], larger counts divided by their depth, ascending.
    other_codes
        uint32 [n], their codes.
    """

    depths: FloatArray
    table: IntArray
    largest: int
    others: FloatArray
    other_codes: IntArray

    def places(self, depth: FloatArray) -> IntArray:
        """Return int32 [N], where the depth of each cell is among the depths."""
        return np.searchsorted(self.depths, depth).astype(np.int32)

    def of(self, counts: Any, place: IntArray) -> IntArray:
        """Return the code of each count [n] at a place of the depths [n]."""
        index = counts.astype(np.int32)
        large = index > self.largest if len(self.others) else None
        index *= np.int32(len(self.depths))
        index += place
        codes: IntArray = self.table.take(index, mode="clip")
        if large is not None and large.any():
            value = counts[large] / self.depths[place[large]]
            codes[large] = self.other_codes[np.searchsorted(self.others, value)]
        return codes


def count_codes(sides: Sequence[tuple[Any, FloatArray]]) -> CountCodes:
    """Return the codes of all counts of some cells.

    Parameters
    ----------
    sides
        (CSR of whole numbers [N, G], divisor of each cell [N]), of which all are comparable.
    """
    depths = np.unique(np.concatenate([depth for _, depth in sides]))
    stored = sum(X.nnz for X, _ in sides)
    size = min(max(_TABLE, stored // _VALUES_PER_ENTRY), max(_TABLE, _LARGEST_TABLE))
    largest = max((int(X.data.max(initial=0)) for X, _ in sides), default=0)
    limit = min(largest, max(1, size // max(len(depths), 1)))
    grid = (np.arange(limit + 1, dtype=np.float64)[:, None] / depths).ravel()
    beyond = []
    for X, depth in sides if limit < largest else ():
        place = np.flatnonzero(X.data > limit)
        row = np.searchsorted(X.indptr, place, side="right") - 1
        beyond.append(np.unique(X.data[place] / depth[row]))
    others = np.unique(np.concatenate([np.empty(0), *beyond]))
    codes = value_codes(np.concatenate([grid, others]), merge=True)
    return CountCodes(depths, codes[: len(grid)], limit, others, codes[len(grid) :])
