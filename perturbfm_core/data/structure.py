"""Checks of the form of matrices that come from files: numbers, and a sparse structure that fits its shape."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import DatasetError

# What a matrix may hold instead of numbers, by the kind of its type.
_OTHERS = {
    "c": "complex numbers",
    "b": "true and false",
    "O": "objects",
    "S": "text",
    "U": "text",
    "T": "text",
    "V": "records",
    "M": "dates",
    "m": "durations",
}


def check_numbers(X: Any, what: str) -> None:
    """Check that a matrix holds real numbers.

    Raises
    ------
    DatasetError
        If it holds complex numbers, text, objects, truth values or records, or is no matrix at all.
    """
    dtype = getattr(X, "dtype", None)
    if not isinstance(dtype, np.dtype):
        msg = f"{what} is no matrix of numbers ({type(X).__name__}); write it as a dense or sparse matrix"
        raise DatasetError(msg)
    if dtype.kind not in "fiu":
        held = _OTHERS.get(dtype.kind, "no numbers")
        msg = f"{what} holds {held} ({dtype}), not numbers; write it as float32 or as whole numbers"
        raise DatasetError(msg)


def checked_matrix(X: Any, what: str) -> Any:
    """Return what a file holds as a matrix in a type that this machine computes with.

    It must have two axes and hold numbers; the structure of a sparse one must fit its shape.

    Raises
    ------
    DatasetError
        If it is not; the message says what is wrong.
    """
    check_numbers(X, what)
    if X.ndim != 2:
        msg = f"{what} has {X.ndim} axes, a matrix has two (rows, genes)"
        raise DatasetError(msg)
    if not sp.issparse(X):
        return np.asarray(X).astype(_computed(X.dtype), copy=False)
    if X.format not in ("csr", "csc"):
        msg = f"{what} is sparse in the format {X.format}; write it as CSR or CSC"
        raise DatasetError(msg)
    columns = X.format == "csc"
    check_pointers(X.data, X.indices, X.indptr, X.shape[::-1] if columns else X.shape, what)
    kind = sp.csc_array if columns else sp.csr_array
    parts = X.data.astype(_computed(X.data.dtype), copy=False), _native(X.indices), _native(X.indptr)
    return kind(parts, shape=X.shape)


def checked_rows(data: Any, indices: Any, indptr: Any, shape: tuple[int, int], what: str) -> Any:
    """Return the CSR matrix of three arrays of a file, in a type that this machine computes with.

    Parameters are those of `check_pointers`.
    """
    check_numbers(data, what)
    check_pointers(data, indices, indptr, shape, what)
    return sp.csr_array((data.astype(_computed(data.dtype), copy=False), indices, indptr), shape=shape)


def _computed(dtype: Any) -> Any:
    """Return the type to compute with: this machine's byte order, and no type that sparse matrices lack."""
    others = {2: np.float32, 4: np.float32, 8: np.float64}
    return others.get(dtype.itemsize, np.float64) if dtype.kind == "f" else dtype.newbyteorder("=")


def _native(array: Any) -> Any:
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check_pointers(data: Any, indices: Any, indptr: Any, shape: tuple[int, int], what: str) -> None:
    """Check the three arrays of a compressed sparse matrix; compiled code that reads them checks nothing.

    Parameters
    ----------
    data, indices
        Values and their positions on the minor axis, [stored].
    indptr
        Where each line of the major axis begins in them, [lines + 1].
    shape
        Length of the major axis (rows of CSR, columns of CSC) and of the minor axis.
    what
        Name of the matrix for the message.

    Raises
    ------
    DatasetError
        If a length, pointer or index does not fit.
    """
    problem = _problem(data, indices, indptr, shape)
    if problem is not None:
        msg = f"{what}: the sparse matrix is damaged ({problem}); fetch or write the file again"
        raise DatasetError(msg)


def _problem(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> str | None:
    arrays = {"data": data, "indices": indices, "indptr": indptr}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.ndim != 1:
            return f"{name} is no flat array"
    for name in ("indices", "indptr"):
        if arrays[name].dtype.kind not in "iu":
            return f"{name} holds {arrays[name].dtype}, not whole numbers"
    problem = pointer_problem(len(data), len(indices), indptr, shape)
    if problem is not None:
        return problem
    width = int(shape[1])
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= width):
        wrong = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
        return f"index {wrong} is outside 0 to {width - 1}"
    return None


def pointer_problem(n_values: int, n_indices: int, indptr: Any, shape: tuple[int, int]) -> str | None:
    """Return what is wrong with the pointers of a compressed sparse matrix, None if nothing is.

    Parameters
    ----------
    n_values, n_indices
        Length of the arrays that they point into.
    indptr
        Where each line of the major axis begins in them, [lines + 1].
    shape
        Length of the major and of the minor axis.
    """
    lines, width = (int(n) for n in shape)
    if lines < 0 or width < 0:
        return f"its shape is {shape}"
    if len(indptr) != lines + 1:
        return f"indptr has {len(indptr)} pointers, {lines} lines need {lines + 1}"
    if n_values != n_indices:
        return f"{n_values} values but {n_indices} indices"
    if int(indptr[0]) != 0 or int(indptr[-1]) != n_values:
        return f"its pointers run from {indptr[0]} to {indptr[-1]}, not from 0 to {n_values}"
    # Compared, not subtracted: the difference of unsigned pointers is never negative.
    if (indptr[1:] < indptr[:-1]).any():
        line = int(np.flatnonzero(indptr[1:] < indptr[:-1])[0])
        return f"the pointers of line {line} run backwards"
    return None


def check_size(size: int, what: str, error: type[Exception] = DatasetError) -> None:
    """Check that an array fits into the memory of this machine before anything is made of it.

    Parameters
    ----------
    size
        What a file declares, in bytes; a damaged file declares any number.
    what
        Name of the array for the message.
    error
        Type of the error raised.

    Raises
    ------
    error
        If it does not.
    """
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if not 0 <= size <= available:
        msg = f"{what} declares {size / 1e9:.1f} GB, this machine has {available / 1e9:.1f}; the file is damaged or too large"
        raise error(msg)
