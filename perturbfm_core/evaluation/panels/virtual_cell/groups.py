"""Groups of cells, one per perturbation, loaded a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.schema import FloatArray, IntArray

BLOCK_VALUES = 12_000_000


@dataclass(frozen=True, eq=False)
class CellGroups:
    """Groups of cells that are generated, sliced or made dense only when they are used.

    Attributes
    ----------
    sizes
        int64 [P], cells of each group.
    n_genes
        Genes G.
    get
        (group) -> its cells [n, G], CSR or dense, on the log1p scale.
    """

    sizes: IntArray
    n_genes: int
    get: Callable[[int], Any]

    @classmethod
    def of_rows(cls, X: Any, rows: Sequence[IntArray]) -> CellGroups:
        """Return the groups that rows of one matrix form (CSR or dense [N, G])."""
        sizes = np.asarray([len(r) for r in rows], dtype=np.int64)
        return cls(sizes, X.shape[1], lambda i: X[rows[i]])

    def __len__(self) -> int:
        return len(self.sizes)

    def dense(self, i: int) -> FloatArray:
        """Return float32 [n, G], the cells of one group."""
        return as_dense(self.get(i))

    def blocks(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (first group, last group + 1, their cells stacked [n, G]), of bounded size."""
        parts: list[Any] = []
        first = stored = 0
        for i in range(len(self)):
            part = self.get(i)
            size = part.nnz if sp.issparse(part) else part.size
            if parts and stored + size > BLOCK_VALUES:
                yield first, i, _stack(parts)
                parts, first, stored = [], i, 0
            parts.append(part)
            stored += size
        if parts:
            yield first, len(self), _stack(parts)


def as_dense(X: Any) -> FloatArray:
    """Return float32 [n, G]."""
    return np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float32)


def _stack(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)


def column_sums(X: Any, sizes: IntArray) -> FloatArray:
    """Return float64 [P, G]: sums over consecutive groups of rows of the given sizes."""
    out = np.empty((len(sizes), X.shape[1]))
    stop = 0
    for i, size in enumerate(sizes):
        start, stop = stop, stop + int(size)
        part = X[start:stop]
        if sp.issparse(part):
            out[i] = np.bincount(part.indices, weights=part.data, minlength=X.shape[1])
        else:
            out[i] = part.sum(axis=0, dtype=np.float64)
    return out
