"""Matrices of a data set (counts, expression, deltas, controls), sparse or dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import FloatArray, IntArray, StrArray

Matrix = Any  # scipy CSR array, dense ndarray or `StoredRows`; scipy ships no types


@dataclass(frozen=True, eq=False)
class Values:
    """Matrices of a data set, each [N, G] or absent.

    Attributes
    ----------
    counts
        Integer counts, CSR; log1p expression is then derived from them.
    expression
        log1p expression, CSR or dense float32.
    delta
        Differences to the matched control, dense float32: the only matrix of delta and z-score data.
    x_control
        Matched control of each row, dense float32, if the file provides it.
    """

    counts: Matrix | None = None
    expression: Matrix | None = None
    delta: FloatArray | None = None
    x_control: FloatArray | None = None

    @property
    def stored(self) -> bool:
        """Return whether a matrix is rows of a file."""
        return any(X is not None and is_stored(X) for X in vars(self).values())

    def in_memory(self) -> Values:
        """Return the matrices in memory; the same object if they are."""
        return self.with_rows(lambda _, X: X.load()) if self.stored else self

    def with_rows(self, change: Callable[[str, Any], Any]) -> Values:
        """Return the matrices with those that are rows of a file changed by a function of name and rows."""
        return Values(
            **{k: change(k, X) if X is not None and is_stored(X) else X for k, X in vars(self).items()}
        )


def as_csr(X: Matrix) -> Any:
    """Return `X` as canonical CSR: sorted indices, no duplicates, no explicit zeros."""
    out = sp.csr_array(X)
    if not out.has_canonical_format:
        if out is X or np.shares_memory(out.data, getattr(X, "data", np.empty(0))):
            out = out.copy()
        if out.dtype.kind in "biu" and out.dtype.itemsize < 4:
            # Sums of repeated entries could exceed what one or two bytes hold.
            out = out.astype(np.int32)
        out.sum_duplicates()
    if out.nnz and (out.data == 0).any():
        out = out.copy() if out is X or np.shares_memory(out.data, getattr(X, "data", np.empty(0))) else out
        out.eliminate_zeros()
    return out


def narrowed(X: Any) -> Any:
    """Return CSR whose positions are of four bytes, where these are enough."""
    if X.indices.dtype.itemsize <= 4 or max(X.nnz, *X.shape) > np.iinfo(np.int32).max:
        return X
    return sp.csr_array((X.data, X.indices.astype(np.int32), X.indptr.astype(np.int32)), shape=X.shape)


def is_stored(X: Matrix) -> bool:
    """Return whether a matrix is rows of a file (`StoredRows`), to be read in blocks."""
    return hasattr(X, "blocks")


def matrix_blocks(X: Matrix) -> Iterator[tuple[slice, Matrix]]:
    """Yield (rows, block of a matrix); rows of a file are read block by block."""
    if is_stored(X):
        yield from X.blocks()
        return
    for block in row_blocks(X.shape[0]):
        yield block, X[block]


def row_blocks(n: int, size: int = 8192) -> list[slice]:
    """Return slices of at most `size` rows that together cover `n` rows."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def values_of(X: Matrix) -> FloatArray:
    """Return the values of a matrix as a flat array; of a sparse one, only those stored explicitly."""
    data: FloatArray = X.data if sp.issparse(X) else np.asarray(X).reshape(-1)
    return data


def check_finite(X: Matrix, what: str, rows: StrArray, genes: StrArray, *, allow_negative: bool) -> None:
    """Check that all values of a matrix are finite, and not negative where that is required.

    Parameters
    ----------
    X
        Matrix [N, G], CSR or dense.
    what
        Name of the matrix for the message.
    rows
        Row ids [N].
    genes
        Gene ids [G].
    allow_negative
        Whether negative values are valid, as they are for differences.

    Raises
    ------
    DatasetError
        If a value is not finite or negative; the message gives row and gene of the first one.
    """
    for block, part in matrix_blocks(X):
        data = values_of(part)
        bad = ~np.isfinite(data)
        problem = "non-finite"
        if not bad.any() and not allow_negative:
            bad = data < 0
            problem = "negative"
        if bad.any():
            coo = sp.coo_array(part) if sp.issparse(part) else None
            if coo is not None:
                wrong = ~np.isfinite(coo.data) if problem == "non-finite" else coo.data < 0
                k = int(np.flatnonzero(wrong)[0])
                i, j, value = int(coo.row[k]), int(coo.col[k]), coo.data[k]
            else:
                k = int(np.flatnonzero(bad)[0])
                i, j = divmod(k, part.shape[1])
                value = part[i, j]
            msg = (
                f"{what} has {problem} values, first {value} at row {str(rows[block.start + i])!r}, gene {str(genes[j])!r}; "
                f"remove or correct them{' (differences need --space delta or zscore)' if problem == 'negative' else ''}"
            )
            raise DatasetError(msg)


# Values that are scaled at once.
_SCALED = 1 << 16


def normalize_log1p(counts: Any, target_sum: float, totals: FloatArray | None = None) -> Any:
    """Return ``log1p(counts / row total * target_sum)`` as float32 CSR [N, G]; empty rows stay empty.

    Parameters
    ----------
    counts
        Counts, CSR [N, G].
    target_sum
        Counts per row after scaling.
    totals
        float [N], row totals to use instead of the sums over these genes.
    """
    if totals is None:
        # By blocks: a sum over all rows at once would copy the values into a wider type.
        totals = np.zeros(counts.shape[0])
        for block in row_blocks(counts.shape[0]):
            totals[block] = np.asarray(counts[block].sum(axis=1), dtype=np.float64).reshape(-1)
    scale = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    # log1p(0) = 0: the result has the sparsity pattern of the counts, whose index arrays are shared.
    out = sp.csr_array(
        (np.empty(counts.nnz, dtype=np.float32), counts.indices, counts.indptr),
        shape=counts.shape,
        copy=False,
    )
    # Fewer rows at a time where many values are stored: the steps in double precision stay in the cache of a core.
    per_row = max(counts.nnz // max(counts.shape[0], 1), 1)
    for block in row_blocks(counts.shape[0], max(min(_SCALED // per_row, 8192), 1)):
        lo, hi = counts.indptr[block.start], counts.indptr[block.stop]
        lengths = np.diff(counts.indptr[block.start : block.stop + 1])
        values = counts.data[lo:hi].astype(np.float64) * np.repeat(scale[block], lengths)
        out.data[lo:hi] = np.log1p(values)
    return out


def take_rows(X: Matrix, rows: IntArray) -> Matrix:
    """Return the rows of a matrix at the given positions, in the same format (sparse or dense)."""
    return X[rows]
