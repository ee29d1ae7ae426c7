"""Rows of a matrix in a file, read in blocks that fit into little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.structure import (
    check_numbers,
    check_pointers,
    checked_matrix,
    checked_rows,
    pointer_problem,
)
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import IntArray

# Values of one block, stored ones of sparse rows.
_BLOCK = 1 << 21
# Fewer values are read at once: then there is nothing to save.
STREAM_FROM = 1 << 26

Opened = Callable[[], AbstractContextManager[Any]]
Step = Callable[[Any, IntArray], Any]


class StoredRows:
    """Matrix [N, G] of a file: CSR arrays, or a dense array, of HDF5 or zarr.

    It is no array: blocks and picked rows of it are. What is done to each block as it is read (`then`) and
    which rows are left out (`take`) is part of it.

    Parameters
    ----------
    opened
        Opens the file and returns the group (``data`` and ``indices``) or array.
    shape
        Rows and columns.
    pointers
        int [N + 1], where each row begins in the arrays; None for a dense array.
    what
        Name of the matrix for messages.
    """

    def __init__(self, opened: Opened, shape: tuple[int, int], pointers: IntArray | None, what: str) -> None:
        self._opened, self._pointers, self._what = opened, pointers, what
        self._rows: IntArray | None = None
        self._steps: tuple[Step, ...] = ()
        self._stored_shape = shape
        self.shape = shape
        # Whether the blocks are sparse.
        self.sparse = pointers is not None

    def then(self, step: Step, width: int | None = None, *, sparse: bool | None = None) -> StoredRows:
        """Return the matrix with a step that each block goes through as it is read.

        Parameters
        ----------
        step
            Gets a block and the positions of its rows, returns the block that takes its place.
        width
            Columns after the step, if it changes them.
        sparse
            Whether blocks are sparse after the step, if it changes that.
        """
        out = self._copy()
        out.sparse = self.sparse if sparse is None else sparse
        out._steps = (*self._steps, step)
        out.shape = self.shape[0], self.shape[1] if width is None else width
        return out

    def take(self, rows: IntArray) -> StoredRows:
        """Return the matrix of some rows, by ascending positions; earlier steps see the positions of before."""
        out = self._copy()
        out._steps = tuple(_of_before(step, rows) for step in self._steps)
        out._rows = rows if self._rows is None else self._rows[rows]
        out.shape = len(rows), self.shape[1]
        return out

    def _copy(self) -> StoredRows:
        out = StoredRows(self._opened, self._stored_shape, self._pointers, self._what)
        out._rows, out._steps, out.shape, out.sparse = self._rows, self._steps, self.shape, self.sparse
        return out

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[slice, Any]]:
        """Yield (rows, block) from row `start` up to `stop`; the file is opened once."""
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        if start >= stop:
            return
        first, last = (start, stop - 1) if self._rows is None else (self._rows[start], self._rows[stop - 1])
        at = start
        with self._opened() as element:
            for lo, hi in self._ranges(int(first), int(last) + 1):
                if self._rows is None:
                    block = slice(lo, hi)
                else:
                    block = slice(at, int(np.searchsorted(self._rows[:stop], hi)))
                    at = block.stop
                if block.stop > block.start:
                    part = self._read(element, lo, hi)
                    if self._rows is not None and block.stop - block.start < hi - lo:
                        part = part[self._rows[block] - lo]
                    yield block, self._stepped(part, np.arange(block.start, block.stop))

    def __getitem__(self, key: Any) -> Any:
        """Return rows by a slice without a step, or by positions, as a matrix in memory."""
        if isinstance(key, slice):
            start, stop, step = key.indices(self.shape[0])
            if step != 1:
                key = np.arange(start, stop, step)
            else:
                return self._joined([part for _, part in self.blocks(start, stop)])
        wanted = np.asarray(key)
        if wanted.dtype == np.bool_:
            wanted = np.flatnonzero(wanted)
        unique, back = np.unique(wanted, return_inverse=True)
        if not len(unique):
            return self._joined([])
        parts = []
        base = unique if self._rows is None else self._rows[unique]
        with self._opened() as element:
            for lo, hi in self._ranges(int(base[0]), int(base[-1]) + 1):
                a, b = (int(i) for i in np.searchsorted(base, (lo, hi)))
                if b > a:
                    low, high = int(base[a]), int(base[b - 1]) + 1
                    part = self._read(element, low, high)[base[a:b] - low]
                    parts.append(self._stepped(part, unique[a:b]))
        out = self._joined(parts)
        return out if len(wanted) == len(unique) and (np.diff(wanted) > 0).all() else out[back]

    def load(self) -> Any:
        """Return the whole matrix in memory."""
        if self._pointers is None:
            return self._joined([part for _, part in self.blocks()])
        data = indices = None
        lengths, at = np.zeros(self.shape[0] + 1, dtype=np.int64), 0
        for block, part in self.blocks():
            if data is None or indices is None:
                # As much as the file has; less is left where zeros or rows are left out.
                size = int(self._pointers[-1])
                data, indices = np.empty(size, part.data.dtype), np.empty(size, part.indices.dtype)
            data[at : at + part.nnz], indices[at : at + part.nnz] = part.data, part.indices
            lengths[block.start + 1 : block.stop + 1] = np.diff(part.indptr)
            at += part.nnz
        if data is None or indices is None:
            return self._joined([])
        pointers = np.cumsum(lengths)
        if pointers[-1] <= np.iinfo(np.int32).max:
            pointers = pointers.astype(np.int32)
        return sp.csr_array((data[:at], indices[:at], pointers), shape=self.shape)

    def _ranges(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of stored rows, about `_BLOCK` values each."""
        lo = first
        while lo < last:
            if self._pointers is None:
                # Two of the chunks that a dense matrix is written in.
                hi = lo + 2 * max((_BLOCK // 2) // max(self._stored_shape[1], 1), 1)
            else:
                hi = int(np.searchsorted(self._pointers, self._pointers[lo] + _BLOCK, "right")) - 1
            hi = min(max(hi, lo + 1), last)
            yield lo, hi
            lo = hi

    def _read(self, element: Any, lo: int, hi: int) -> Any:
        width = self._stored_shape[1]
        if self._pointers is None:
            return checked_matrix(np.asarray(element[lo:hi]), self._what)
        a, b = int(self._pointers[lo]), int(self._pointers[hi])
        data, indices = np.asarray(element["data"][a:b]), np.asarray(element["indices"][a:b])
        pointers = (self._pointers[lo : hi + 1] - a).astype(np.int32)
        if indices.dtype.kind in "iu" and indices.dtype != np.int32 and width <= np.iinfo(np.int32).max:
            check_pointers(data, indices, pointers, (hi - lo, width), self._what)
            indices = indices.astype(np.int32)
        return checked_rows(data, indices, pointers, (hi - lo, width), self._what)

    def _stepped(self, part: Any, rows: IntArray) -> Any:
        for step in self._steps:
            part = step(part, rows)
        return part

    def _joined(self, parts: list[Any]) -> Any:
        if len(parts) == 1:
            return parts[0]
        if not parts:
            width = self._stored_shape[1]
            none: Any = np.empty((0, width), dtype=np.float32)
            return self._stepped(
                none if self._pointers is None else sp.csr_array(none), np.empty(0, dtype=np.int64)
            )
        return (
            sp.csr_array(sp.vstack(parts, format="csr")) if sp.issparse(parts[0]) else np.concatenate(parts)
        )


def _of_before(step: Step, taken: IntArray) -> Step:
    return lambda part, rows: step(part, taken[rows])


def stored_rows(opened: Opened, element: Any, shape: tuple[int, int], what: str) -> StoredRows | None:
    """Return a large matrix of an open file to be read in blocks; None if it is small, or has no rows of its own.

    Parameters
    ----------
    opened
        Opens the file again and returns the element.
    element
        Group or array, now open.
    shape
        Rows and columns that the tables of the file say.
    what
        Name of the matrix for messages.

    Raises
    ------
    DatasetError
        If the arrays of a sparse matrix do not fit together.
    """
    if hasattr(element, "keys"):
        parts = [element.get(name) for name in ("data", "indices", "indptr")]
        if element.attrs.get("encoding-type") != "csr_matrix" or any(
            getattr(p, "ndim", 0) != 1 for p in parts
        ):
            return None
        data, indices, indptr = parts
        if tuple(element.attrs.get("shape", ())) != shape or data.shape[0] < STREAM_FROM:
            return None
        check_numbers(data, what)
        if indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
            return None
        pointers = np.asarray(indptr[:])
        # The arrays themselves are looked at as they are read; their lengths now.
        problem = pointer_problem(data.shape[0], indices.shape[0], pointers, shape)
        if problem is not None:
            msg = f"{what}: the sparse matrix is damaged ({problem}); fetch or write the file again"
            raise DatasetError(msg)
        return StoredRows(opened, shape, pointers.astype(np.int64), what)
    if tuple(element.shape) != shape or shape[0] * shape[1] < STREAM_FROM:
        return None
    check_numbers(element, what)
    return StoredRows(opened, shape, None, what)
