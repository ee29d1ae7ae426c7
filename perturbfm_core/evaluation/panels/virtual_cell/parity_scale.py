"""Cells of a parity case in the scale and precision in which cell-eval compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.virtual_cell.differential import (
    DifferentialExpression,
    differential_expression,
    prepare_controls,
)
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups, column_sums
from perturbfm_core.schema import FloatArray, IntArray

# Values of which none has a larger fraction are counts.
_FRACTION = 1e-3


def as_log1p(X: Any) -> Any:
    """Return cells [N, G] as cell-eval compares them: counts as log1p, scaled to their median depth, others as given.

    Each side is judged by itself. Values are in single precision, or in double precision where they are given so. A
    sparse matrix stays one, by cell: sums over it are added in another order than over a dense one.
    """
    X = sp.csr_matrix(X) if sp.issparse(X) else np.asarray(X)
    X = X if X.dtype == np.float64 else X.astype(np.float32)
    if (np.modf(_values(X))[0] > _FRACTION).any():
        return X
    totals = np.asarray(X.sum(axis=1, dtype=np.float64)).ravel().astype(X.dtype)
    # Empty cells count for the median depth of a sparse matrix, and do not for that of a dense one.
    depth = totals / np.median(totals if sp.issparse(X) else totals[totals > 0])
    divisor = np.where(depth == 0, X.dtype.type(1), depth)
    if sp.issparse(X):
        return _with_values(X, np.log1p(X.data / np.repeat(divisor, np.diff(X.indptr))))
    return np.log1p(X / divisor[:, None])


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
    means: list[FloatArray] = [column_sums(X[r]) / len(r) for r in rows]
    return replace(found, mean=np.stack(means))


def _values(X: Any) -> FloatArray:
    return np.asarray(X.data if sp.issparse(X) else X)


def _with_values(X: Any, values: FloatArray) -> Any:
    return sp.csr_matrix((values, X.indices, X.indptr), shape=X.shape)
