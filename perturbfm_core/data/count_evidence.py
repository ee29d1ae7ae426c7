"""Signs that whole numbers are no counts of cells."""

from __future__ import annotations

import numpy as np

from perturbfm_core.schema import FloatArray

# Up to here whole numbers could be logarithms; sums that vary by this share of their mean are equal but for rounding.
_LOGARITHM, _EQUAL_SUMS = 20.0, 2e-3
# Rows and values from which on something can be said, and share of zeros where counts have ones as well.
_ROWS, _VALUES, _ZEROS = 20, 500, 0.2
# Rows that are enough.
_LOOKED_AT = 200


def doubted_counts(dense: FloatArray, high: float) -> str:
    """Return what speaks against whole numbers being counts, and what to do; empty if nothing does.

    Parameters
    ----------
    dense
        Sample of rows [n, G], whole numbers of 0 and more.
    high
        Largest value of the matrix.
    """
    dense = dense[dense.any(axis=1)]
    if len(dense) and high < _LOGARITHM and _even(dense):
        return (
            f"whole numbers up to {high:.6g} that differ less between rows than counts do by chance, as logarithms cut to whole "
            "numbers; import the counts themselves"
        )
    dense = dense[:: -(-len(dense) // _LOOKED_AT) or 1]
    if len(dense) < _ROWS or np.count_nonzero(dense) < _VALUES:
        return ""
    if high <= 1:
        return (
            "every value is 0 or 1, as where counts were turned into on and off; import the counts themselves"
        )
    on = np.count_nonzero(dense, axis=1)
    seen = (on >= _ROWS) & (on <= (1 - _ZEROS) * dense.shape[1])
    smallest = np.where(dense > 0, dense, np.inf).min(axis=1)[seen]
    if len(smallest) >= _ROWS and np.mean(smallest > 1) > 0.5:
        return (
            f"most rows have many zeros and no value of 1 (the smallest is {np.median(smallest):.6g}), as where normalised values "
            "were rounded to whole numbers, or counts multiplied; import the counts themselves"
        )
    sums = dense.sum(axis=1)
    if sums.std() < _EQUAL_SUMS * sums.mean():
        return (
            f"every row sums to {np.median(sums):.6g} within rounding, as where normalised values were rounded to whole numbers; "
            "import the counts themselves, unless counts were drawn at random down to one depth"
        )
    return ""


def _even(dense: FloatArray) -> bool:
    """Return whether most common genes vary less than half as much as counts of one mean, which differ by chance alone."""
    mean, variance = dense.mean(axis=0), dense.var(axis=0)
    common = mean >= 2
    return bool(common.sum() >= 10 and np.median(variance[common] / mean[common]) < 0.5)
