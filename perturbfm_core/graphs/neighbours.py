"""Selection of the strongest edges of every gene."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import GraphError


def strongest(adjacency: Any, k: int) -> Any:
    """Return CSR [N, N] with the `k` entries of largest magnitude in every row; ties go to the first column.

    Raises
    ------
    GraphError
        If `k` is less than 1.
    """
    if k < 1:
        msg = f"top_k is {k}; every gene keeps at least 1 neighbour"
        raise GraphError(msg)
    csr = sp.csr_array(adjacency)
    row = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    # Sorted by row, then falling magnitude, then column; the rank is the index within the row.
    order = np.lexsort((csr.indices, -np.abs(csr.data), row))
    rank = np.arange(csr.nnz) - np.repeat(csr.indptr[:-1], np.diff(csr.indptr))
    kept = order[rank < k]
    return sp.csr_array((csr.data[kept], (row[kept], csr.indices[kept])), shape=csr.shape)


def either_way(adjacency: Any) -> Any:
    """Return symmetric CSR [N, N] with every edge in both directions, by its weight of larger magnitude."""
    # Edges as unordered pairs, sorted by falling magnitude within a pair: the first of each pair is kept.
    coo = sp.coo_array(adjacency)
    low, high = np.minimum(coo.row, coo.col), np.maximum(coo.row, coo.col)
    order = np.lexsort((-np.abs(coo.data), high, low))
    low, high, data = low[order], high[order], coo.data[order]
    first = np.ones(len(low), dtype=np.bool_)
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    first &= low != high
    low, high, data = low[first], high[first], data[first]
    both = (np.concatenate([data, data]), (np.concatenate([low, high]), np.concatenate([high, low])))
    return sp.csr_array(both, shape=coo.shape)
