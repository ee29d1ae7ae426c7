"""Writing of a matrix to zarr block by block, in the form in which anndata writes it as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.data.stored_rows import StoredRows
from perturbfm_core.schema import IntArray

ZARR_CHUNK = 1 << 20


class _Appended:
    """A flat array of a group that grows by whole chunks."""

    def __init__(self, group: Any, name: str, dtype: Any) -> None:
        self._array = group.create_array(name, shape=(0,), dtype=dtype, chunks=(ZARR_CHUNK,))
        self._waiting: list[Any] = []
        self._n = 0

    def add(self, values: Any) -> None:
        self._waiting.append(values)
        self._n += len(values)
        if self._n >= ZARR_CHUNK:
            self._write(self._n - self._n % ZARR_CHUNK)

    def _write(self, n: int) -> None:
        whole = np.concatenate(self._waiting) if self._waiting else np.empty(0, dtype=self._array.dtype)
        start = self._array.shape[0]
        self._array.resize((start + n,))
        if n:
            self._array[start : start + n] = whole[:n]
        self._waiting, self._n = [whole[n:]], self._n - n

    def end(self) -> None:
        """Write what is left."""
        self._write(self._n)


def copy_rows(X: StoredRows, group: Any, name: str = "X") -> None:
    """Write the rows of a file as a matrix of a zarr group.

    Parameters
    ----------
    X
        The rows.
    group
        Open zarr group.
    name
        Name of the matrix in it.
    """
    if not X.sparse:
        _copy_dense(X, group, name)
        return
    made = group.create_group(name, overwrite=True)
    data = indices = None
    lengths: list[IntArray] = [np.zeros(1, dtype=np.int64)]
    for _, part in X.blocks():
        if data is None or indices is None:
            data = _Appended(made, "data", part.data.dtype)
            indices = _Appended(made, "indices", np.int32)
        data.add(part.data)
        indices.add(part.indices.astype(np.int32, copy=False))
        lengths.append(np.diff(part.indptr).astype(np.int64))
    for array in (data, indices):
        if array is not None:
            array.end()
    pointers = _Appended(made, "indptr", np.int64)
    pointers.add(np.cumsum(np.concatenate(lengths)))
    pointers.end()
    # Last, so that a group without its arrays is no matrix.
    made.attrs.update({"shape": list(X.shape), "encoding-type": "csr_matrix", "encoding-version": "0.1.0"})


def _copy_dense(X: StoredRows, group: Any, name: str) -> None:
    made = None
    for block, part in X.blocks():
        if made is None:
            rows = max(ZARR_CHUNK // max(X.shape[1], 1), 1)
            made = group.create_array(
                name,
                shape=X.shape,
                dtype=part.dtype,
                chunks=(min(rows, X.shape[0]), X.shape[1]),
                overwrite=True,
            )
        made[block] = part
    if made is not None:
        made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
