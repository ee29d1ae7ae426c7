"""Cells of a parity case in the scale and precision in which cell-eval compares them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.virtual_cell.differential import (
    Controls,
    DifferentialExpression,
    differential_expression,
    prepare_controls,
)
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.panels.virtual_cell.profiles import ControlCells
from perturbfm_core.schema import FloatArray, IntArray

# Values of which none has a larger fraction are counts.
_FRACTION = 1e-3


def libm_log1p(values: Any) -> Any:
    """Return log1p of an array of any shape as the C library has it.

    NumPy's last digit depends on the instructions of the processor, and with it which scaled counts are tied.
    """
    distinct, place = np.unique(values, return_inverse=True)
    logs = np.array([math.log1p(value) for value in distinct.tolist()], dtype=distinct.dtype)
    return logs[place.reshape(np.shape(values))]


# NumPy takes the one or the other, by processor: the last digits of a case are those of the machine that made it.
LOG1P: tuple[Callable[[Any], Any], ...] = (libm_log1p, np.log1p)


def as_log1p(X: Any, log1p: Callable[[Any], Any], *, half: bool = False) -> Any:
    """Return cells [N, G] as cell-eval compares them: counts as log1p, scaled to their median depth, others as given.

    Each side is judged by itself. Values are in single precision, or in double precision where they are given so. A
    sparse matrix stays one, by cell: sums over it are added in another order than over a dense one.

    Parameters
    ----------
    X
        Cells, dense or sparse.
    log1p
        The function for counts, of `LOG1P`.
    half
        Keep half precision, as the peer does for its mean baseline.
    """
    X = sp.csr_matrix(X) if sp.issparse(X) else np.asarray(X)
    X = X if X.dtype == np.float64 or (half and X.dtype == np.float16) else X.astype(np.float32)
    if (np.modf(_values(X))[0] > _FRACTION).any():
        return X
    totals = np.asarray(X.sum(axis=1, dtype=np.float64)).ravel().astype(X.dtype)
    # Empty cells count for the median depth of a sparse matrix, and do not for that of a dense one.
    depth = totals / np.median(totals if sp.issparse(X) else totals[totals > 0])
    divisor = np.where(depth == 0, X.dtype.type(1), depth)
    if sp.issparse(X):
        return _with_values(X, log1p(X.data / np.repeat(divisor, np.diff(X.indptr))))
    return log1p(X / divisor[:, None])


def compared_in_double(X: Any, rows: Sequence[IntArray], control: IntArray) -> DifferentialExpression | None:
    """Return the differential expression of cells in double precision, None of others.

    Values that are equal in single precision only are no ties there, as those of counts that were scaled twice.

    Parameters
    ----------
    X
        Cells [N, G], CSR or dense, log1p.
    rows
        Rows of each perturbation.
    control
        Rows of the controls.
    """
    if X.dtype != np.float64:
        return None
    # Places in the order of all values, 0 for 0, are exact in single precision; small, as they are taken for log1p.
    place = np.unique(np.append(_values(X), 0.0), return_inverse=True)[1]
    order = ((place[:-1] - place[-1]) * 2.0**-24).astype(np.float32)
    ordered = _with_values(X, order) if sp.issparse(X) else order.reshape(X.shape)
    found = differential_expression(CellGroups.of_rows(ordered, rows), prepare_controls(ordered[control]))
    return replace(found, mean=np.stack([compensated_mean(X[r]) for r in rows]))


@dataclass(frozen=True, eq=False)
class ControlsInDouble(ControlCells):
    """Control cells in double precision, their mean as the peer has it."""

    @cached_property
    def ranked(self) -> Controls:
        """Return the cells prepared for rank sums."""
        return replace(prepare_controls(self.X), mean=compensated_mean(self.X))


def compensated_mean(X: Any) -> FloatArray:
    """Return float64 [G], the mean of cells [n, G], the rounding errors of its sum added up on the side, as the peer does.

    Equal cells of several groups then have equal means: the change of a constant prediction is 0, not a rounding error.
    """
    total, lost = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for cell in np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float64):
        add = cell - lost
        grown = total + add
        total, lost = grown, (grown - total) - add
    return np.asarray(total / X.shape[0])


def _values(X: Any) -> FloatArray:
    return np.asarray(X.data if sp.issparse(X) else X)


def _with_values(X: Any, values: FloatArray) -> Any:
    return sp.csr_matrix((values, X.indices, X.indptr), shape=X.shape)
