"""Predicted rows of test conditions, and the cells of a prediction that has some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import PredictedCells
from perturbfm_core.data.pseudobulk import group_sums
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.schema import FloatArray, IntArray, PredictionKind

# Rows of a condition are its cells if more than this share of them differ.
_DISTINCT = 0.5
# A file with fewer rows per condition (the median) has one row of each, and those that occur twice are a mistake.
FEWEST = 3


@dataclass(frozen=True, eq=False)
class Rows:
    """Predicted rows of test conditions, in the genes of the data set.

    Attributes
    ----------
    X
        float32 [n, G], CSR or dense.
    code
        int64 [n], condition (0 to C - 1) of each row.
    count
        float64 [n], number of test rows that each row predicts.
    var
        float32 [n, G], or None.
    data_row
        int64 [n], a row of the data set that each row predicts, None where it predicts a condition.
    counts
        int32 [n, G], CSR: the counts of each row, where rows are cells given as counts; else None.
    controls
        float64 [k, G] each, some of the control rows that the file has beside, by context.
    """

    X: Any
    code: IntArray
    count: FloatArray
    var: FloatArray | None
    data_row: IntArray | None
    counts: Any = None
    controls: Sequence[FloatArray] = ()

    def average(self, values: Any, n: int) -> FloatArray:
        """Return float64 [n, G], the mean of `values` by condition, NaN for a condition without rows."""
        total = np.bincount(self.code, weights=self.count, minlength=n)
        with np.errstate(invalid="ignore", divide="ignore"):
            out: FloatArray = group_sums(values, self.code, n, self.count) / total[:, None]
        return out


def by_cell(rows: Rows) -> bool:
    """Return whether rows are cells: most rows of conditions with several of them differ."""
    n = np.bincount(rows.code)
    several = n[rows.code] > 1
    if not several.any():
        return False
    # A projection on random weights tells rows apart without comparing all their values.
    weights = np.random.default_rng(0).standard_normal(rows.X.shape[1])
    value = np.asarray(rows.X @ weights, dtype=np.float64)
    seen = {(c, v) for c, v in zip(rows.code[several].tolist(), value[several].tolist(), strict=True)}
    return len(seen) > _DISTINCT * float(rows.count[several].sum())


def predicted_cells(
    ds: PerturbDataset, side: ObservedSide, rows: Rows, kind: PredictionKind
) -> tuple[PredictedCells | None, int]:
    """Return (the predicted cells or None, number of their values that were below 0).

    Parameters
    ----------
    ds
        The data set.
    side
        The observed side of the split.
    rows
        The predicted rows: cells if they are given as counts, or differ within conditions.
    kind
        What their numbers are; deltas get their input control back.
    """
    if ds.metadata.level != "cell" or not ds.has_controls or not (rows.counts is not None or by_cell(rows)):
        return None, 0
    X = rows.X
    if kind == "delta" and side.input_control is not None:
        dense = np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float64)
        # As `PerturbDataset.delta` subtracts it: of the batch of the row where the prediction names rows.
        control = (
            side.input_control[rows.code] if rows.data_row is None else ds.x_control(rows.data_row, "input")
        )
        X = (dense + control).astype(np.float32)
    stored = X.data if sp.issparse(X) else X
    cut = int((stored < 0).sum())
    if cut:
        X = X.maximum(0) if sp.issparse(X) else np.maximum(X, 0)
    order = np.argsort(rows.code, kind="stable")
    bounds = np.searchsorted(rows.code[order], np.arange(len(side.conditions) + 1))
    keys = [str(k) for k in side.conditions.index]
    of = {k: order[bounds[i] : bounds[i + 1]] for i, k in enumerate(keys) if bounds[i + 1] > bounds[i]}
    return PredictedCells(sp.csr_array(X) if sp.issparse(X) else X, of, rows.counts), cut
