"""Sparse rows of counts of an HDF5 file, read piece by piece into the smallest types that hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.structure import check_pointers

_PIECE = 1 << 22
_SMALL = np.iinfo(np.uint16).max


def read_compact(element: Any, shape: tuple[int, int]) -> Any:
    """Return CSR uint16 of a group with the arrays of sparse rows; None if it is anything else.

    Parameters
    ----------
    element
        HDF5 group or data set.
    shape
        Rows and columns.

    Raises
    ------
    DatasetError
        If the arrays do not fit together.
    """
    if not hasattr(element, "keys") or element.attrs.get("encoding-type") != "csr_matrix":
        return None
    parts = [element.get(name) for name in ("data", "indices", "indptr")]
    if any(getattr(p, "ndim", 0) != 1 for p in parts) or tuple(element.attrs.get("shape", ())) != shape:
        return None
    data, indices, indptr = parts
    if data.dtype.kind not in "fiu" or indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        return None
    if max(len(data), *shape) > np.iinfo(np.int32).max or len(data) != len(indices):
        return None
    values = _pieces(data, np.uint16, _SMALL)
    places = None if values is None else _pieces(indices, np.int32, np.iinfo(np.int32).max)
    if values is None or places is None:
        return None
    pointers = indptr[()]
    check_pointers(values, places, pointers, shape, element.name)
    return sp.csr_array((values, places, pointers.astype(np.int32)), shape=shape)


def _pieces(stored: Any, dtype: Any, largest: int) -> Any:
    """Return an array of whole numbers from 0 to `largest` in a smaller type, None if it holds others."""
    out = np.empty(len(stored), dtype=dtype)
    for start in range(0, len(stored), _PIECE):
        part = stored[start : start + _PIECE]
        if not len(part) or not (part.min() >= 0 and part.max() <= largest):
            return None
        place = out[start : start + len(part)]
        place[...] = part
        if part.dtype.kind == "f" and not np.array_equal(place, part):
            return None
    return out
