"""Groups of cells, one per perturbation, loaded one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.schema import FloatArray, IntArray


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
        return cls(sizes, X.shape[1], lambda i: X[_range(rows[i])])

    def __len__(self) -> int:
        return len(self.sizes)

    def dense(self, i: int) -> FloatArray:
        """Return float32 [n, G], the cells of one group."""
        return as_dense(self.get(i))


def _range(rows: IntArray) -> IntArray | slice:
    """Return rows that follow one another as a range, which is faster to read and a view of a dense matrix."""
    if len(rows) and rows[0] >= 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return slice(int(rows[0]), int(rows[0]) + len(rows))
    return rows


def as_dense(X: Any) -> FloatArray:
    """Return float32 [n, G]."""
    return np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float32)


def column_sums(X: Any) -> FloatArray:
    """Return float64 [G], the sums over cells [n, G]."""
    if sp.issparse(X):
        return np.asarray(np.bincount(X.indices, weights=X.data, minlength=X.shape[1]), dtype=np.float64)
    return np.asarray(X.sum(axis=0, dtype=np.float64))
