"""Rows of a matrix that have exactly the values of another one, as cells that were concatenated twice."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.matrix import Matrix
from perturbfm_core.schema import FloatArray, IntArray

# Cells of fewer non-zero values can be equal by chance; rows that are marked at once.
_TELLING, _PIECE = 10, 512


def row_marks(part: Matrix) -> FloatArray:
    """Return two projections [n, 2] of each row, the same for the same values; NaN where these are too few to tell.

    Products of dense rows round by their place in a block, so all are rounded further.
    """
    weights = np.random.default_rng(0).standard_normal((part.shape[1], 2))
    part = part.tocsr() if sp.issparse(part) else part
    out = np.empty((part.shape[0], 2))
    # In pieces, since values become float64.
    for start in range(0, part.shape[0], _PIECE):
        piece = part[start : start + _PIECE]
        used = np.diff(piece.indptr) if sp.issparse(piece) else np.count_nonzero(piece, axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            mark = np.round(np.asarray(piece.astype(np.float64) @ weights), 9)
        out[start : start + _PIECE] = np.where(used[:, None] < _TELLING, np.nan, mark)
    return out


def repeated_rows(marks: FloatArray) -> IntArray:
    """Return (position, position of an earlier one with the same marks), int [n, 2], of the rows that repeat another."""
    telling = np.flatnonzero(np.isfinite(marks).all(axis=1))
    # Both projections as one number: one zero has no sign, and an odd factor (2^64 over the golden ratio) keeps them apart.
    bits = (marks[telling] + 0.0).view(np.uint64)
    joint = bits[:, 0] ^ (bits[:, 1] * np.uint64(0x9E3779B97F4A7C15))
    _, first, code = np.unique(joint, return_index=True, return_inverse=True)
    earlier = first[code]
    again = np.flatnonzero(earlier != np.arange(len(telling)))
    return np.stack([telling[again], telling[earlier[again]]], axis=1).astype(np.int64)
