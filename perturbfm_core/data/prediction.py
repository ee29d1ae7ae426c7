"""Predicted expression changes with variances and intervals, per condition and as ``predictions.npz``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from perturbfm_core.data.intervals import Intervals, intervals_of
from perturbfm_core.data.npz import read_npz
from perturbfm_core.data.prediction_arrays import declared_kind, matrix_of, names_of, text_of
from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, PredictionKind, StrArray

ResidualSource = Literal["out_of_fold", "calibration_fold", "in_sample"]
# Sentences of a file that are shown, and characters of each.
_SENTENCES, _LONGEST = 40, 600


def scored_as_control(n: int, total: int) -> str:
    """Return the warning that `n` of all test conditions have no prediction."""
    return f"{n} of {total} test conditions are not predicted and scored as their control (delta 0)"


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted expression changes of conditions, in their order.

    Attributes
    ----------
    mean
        float32 [C, G], expected delta in log1p units.
    var
        float32 [C, G], predictive variance of the observed condition mean.
    var_epistemic
        float32 [C, G], the part of `var` that more training data would remove (epistemic uncertainty), or
        None.
    intervals
        Calibrated prediction intervals, or None.
    not_predicted
        bool [C], conditions without a prediction, whose `mean` is that of their control (0); None if all have one.
    warnings
        Sentences that every reader of the scores must see.
    """

    mean: FloatArray
    var: FloatArray
    var_epistemic: FloatArray | None = None
    intervals: Intervals | None = None
    not_predicted: BoolArray | None = None
    warnings: tuple[str, ...] = ()

    def rows(self, positions: IntArray) -> Prediction:
        """Return the prediction of the conditions at the given positions, in that order."""
        absent, epistemic = self.not_predicted, self.var_epistemic
        return replace(
            self,
            mean=self.mean[positions],
            var=self.var[positions],
            var_epistemic=None if epistemic is None else epistemic[positions],
            intervals=None if self.intervals is None else self.intervals.rows(positions),
            not_predicted=None if absent is None else absent[positions],
        )


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of training or calibration conditions by models that were not fitted on them.

    Attributes
    ----------
    conditions
        Condition table [n], index = key; a condition that several folds hold out has one row for each.
    truth
        float32 [n, G], observed delta in log1p units.
    prediction
        Mean and variance of each row, both from models (and residuals) that exclude it.
    units
        Exchangeable units of each row that are new to its model (see `unit`).
    fold
        int64 [n], index of the model that predicted each row.
    source
        ``out_of_fold``: inner folds of the training conditions; ``calibration_fold``: the split's calibration
        fold, predicted by the final model; ``in_sample``: fitted values, which must not be used for
        calibration.
    unit
        Name of the exchangeable unit that `units` lists.
    fitted
        For each fold, the keys of the conditions that its model was fitted or early-stopped on.
    """

    conditions: pd.DataFrame
    truth: FloatArray
    prediction: Prediction
    units: list[tuple[str, ...]]
    fold: IntArray
    source: ResidualSource
    unit: str = "condition"
    fitted: tuple[frozenset[str], ...] = ()

    def __post_init__(self) -> None:
        n = len(self.conditions)
        shapes = {self.truth.shape, self.prediction.mean.shape, self.prediction.var.shape}
        problem = None
        if len(shapes) > 1 or self.truth.ndim != 2 or len(self.truth) != n:
            problem = f"truth, mean and var must be [{n}, genes], found {sorted(shapes)}"
        elif len(self.units) != n or len(self.fold) != n:
            problem = f"{len(self.units)} units and {len(self.fold)} folds for {n} conditions"
        elif n and (self.fold.min() < 0 or self.fold.max() >= max(len(self.fitted), 1)):
            problem = f"fold must point into the {len(self.fitted)} entries of `fitted`"
        if problem is not None:
            msg = f"out-of-fold predictions are malformed: {problem}"
            raise PredictionError(msg)

    def __len__(self) -> int:
        return len(self.conditions)

    @property
    def residual(self) -> FloatArray:
        """Return float64 [n, G], truth minus predicted mean."""
        out: FloatArray = self.truth.astype(np.float64) - self.prediction.mean
        return out


@dataclass(frozen=True, eq=False)
class PredictedCells:
    """Cells of a prediction that has some, in the genes and scale of the data set.

    Attributes
    ----------
    X
        log1p expression [n, G], CSR or dense, no value below 0.
    rows
        {condition key: int64, its rows in `X`}.
    counts
        Counts of the same cells [n, G], CSR in the order of `X`; None if the prediction has none.
    """

    X: Any
    rows: Mapping[str, IntArray]
    counts: Any = None


@dataclass(frozen=True, eq=False)
class RowPrediction:
    """Predictions of data set rows, as stored in ``predictions.npz``.

    Attributes
    ----------
    mean, var
        float32 [R, G], mean and variance of the delta in log1p units.
    idx
        int64 [n], row positions in the data set.
    row
        int64 [n], the row of `mean` that predicts data set row ``idx[i]``; None means R = n, in order.
    genes, row_id
        Gene ids of the columns and row ids of ``idx``, if the file has them.
    split_hash, data_content_sha256, space, control
        Split, data set, scale and control that the predictions were made for, if the file states them.
    var_epistemic
        float32 [R, G], the part of `var` that more training data would remove, or None.
    var_filled
        Whether the file had no variance and a constant was filled in.
    intervals
        Calibrated prediction intervals of the rows of `mean`, or None.
    kind
        ``delta`` or ``expression``, what the file says that `mean` is; None if it does not say.
    condition
        Condition key of each row of `mean` [R], if the file has them.
    cells
        The predicted cells, for metrics that read cells; None lets them be drawn from controls.
    not_predicted
        bool [R], rows of `mean` that stand for conditions without a prediction; None if all have one.
    warnings
        Sentences that every reader of the scores must see.
    """

    mean: FloatArray
    var: FloatArray
    idx: IntArray
    row: IntArray | None = None
    genes: StrArray | None = None
    row_id: StrArray | None = None
    split_hash: str | None = None
    data_content_sha256: str | None = None
    space: str | None = None
    control: str | None = None
    var_epistemic: FloatArray | None = None
    var_filled: bool = False
    intervals: Intervals | None = None
    kind: PredictionKind | None = None
    condition: StrArray | None = None
    cells: PredictedCells | None = None
    not_predicted: BoolArray | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.idx)
        problem = None
        if self.mean.ndim != 2 or self.var.shape != self.mean.shape:
            problem = f"mean {self.mean.shape} and var {self.var.shape} must be equal [rows, genes]"
        elif self.idx.ndim != 1 or self.idx.dtype.kind not in "iu":
            problem = f"idx must be int64 [n], found {self.idx.dtype} {self.idx.shape}"
        elif len(np.unique(self.idx)) != n:
            problem = f"idx repeats {n - len(np.unique(self.idx))} rows; predict each row once"
        elif self.row is None and len(self.mean) != n:
            problem = f"mean has {len(self.mean)} rows for {n} idx; give `row` or one mean per idx"
        elif self.row is not None and (self.row.shape != self.idx.shape or self.row.dtype.kind not in "iu"):
            problem = f"row must be int64 of the length of idx ({n}), found {self.row.dtype} {self.row.shape}"
        elif self.row is not None and n and (self.row.min() < 0 or self.row.max() >= len(self.mean)):
            problem = f"row points outside mean (0 to {len(self.mean) - 1})"
        elif self.genes is not None and len(self.genes) != self.mean.shape[1]:
            problem = f"genes has {len(self.genes)} names for {self.mean.shape[1]} columns"
        elif self.row_id is not None and len(self.row_id) != n:
            problem = f"row_id has {len(self.row_id)} names for {n} idx"
        elif self.condition is not None and len(self.condition) != len(self.mean):
            problem = f"condition has {len(self.condition)} keys for {len(self.mean)} rows of mean"
        elif self.not_predicted is not None and (
            self.not_predicted.shape != (len(self.mean),) or self.not_predicted.dtype.kind != "b"
        ):
            problem = f"not_predicted must be bool [{len(self.mean)}], one for each row of mean"
        elif self.intervals is not None and (
            self.intervals.factor.shape[1] != len(self.mean)
            or len(self.intervals.gene_bin) != self.mean.shape[1]
        ):
            problem = (
                f"intervals are of {self.intervals.factor.shape[1]} rows and {len(self.intervals.gene_bin)} genes, "
                f"mean is {self.mean.shape}"
            )
        if problem is not None:
            msg = f"prediction is malformed: {problem}"
            raise PredictionError(msg)

    @property
    def rows(self) -> IntArray:
        """Return int64 [n], the row of `mean` that predicts each row in `idx`."""
        return np.arange(len(self.idx)) if self.row is None else self.row


def write_prediction(prediction: RowPrediction, path: Path) -> None:
    """Write ``predictions.npz`` (into a staging directory; the caller publishes it)."""
    arrays: dict[str, Any] = {
        "mean": prediction.mean.astype(np.float32),
        "var": prediction.var.astype(np.float32),
        "idx": prediction.idx.astype(np.int64),
    }
    if prediction.row is not None:
        arrays["row"] = prediction.row.astype(np.int64)
    for key in ("genes", "row_id", "condition"):
        value = getattr(prediction, key)
        if value is not None:
            arrays[key] = np.asarray(value, dtype=np.str_)
    for key in ("split_hash", "data_content_sha256", "space", "control", "kind"):
        value = getattr(prediction, key)
        if value is not None:
            arrays[key] = np.asarray(value, dtype=np.str_)
    if prediction.var_epistemic is not None:
        arrays["var_epistemic"] = prediction.var_epistemic.astype(np.float32)
    if prediction.not_predicted is not None:
        arrays["not_predicted"] = prediction.not_predicted
    if prediction.warnings:
        arrays["warnings"] = np.asarray(prediction.warnings, dtype=np.str_)
    intervals = prediction.intervals
    if intervals is not None:
        arrays["interval_levels"] = intervals.levels.astype(np.float64)
        arrays["interval_factor"] = intervals.factor.astype(np.float32)
        arrays["gene_bin"] = intervals.gene_bin.astype(np.int16)
        if intervals.flag is not None:
            arrays["interval_flag"] = intervals.flag.astype(np.bool_)
        if intervals.effective is not None:
            arrays["interval_effective"] = intervals.effective.astype(np.float32)
    np.savez(path, **arrays)


def read_prediction(path: Path) -> RowPrediction:
    """Read ``predictions.npz`` of this or another tool; pickled objects are refused.

    A file without ``var`` gets a constant variance of 1 and the flag `var_filled`.

    Raises
    ------
    PredictionError
        If the file is missing, damaged or malformed.
    """
    return from_arrays(read_npz(path, PredictionError), path)


def from_arrays(arrays: dict[str, Any], path: Path) -> RowPrediction:
    """Return the prediction that the arrays of an npz file hold; `path` names it in messages.

    Raises
    ------
    PredictionError
        If an array is missing or malformed.
    """
    missing = [key for key in ("mean", "idx") if key not in arrays]
    if missing:
        msg = (
            f"{path} lacks {', '.join(missing)}; a prediction has mean [R, G], var [R, G] and idx [n], "
            "or mean, genes and condition (see `perturbfm predictions template`)"
        )
        raise PredictionError(msg)
    mean = matrix_of(arrays["mean"], "mean", path)
    filled = "var" not in arrays
    kind, space = declared_kind(arrays, path)

    def text(key: str) -> str | None:
        return text_of(arrays[key], key, path) if key in arrays else None

    def names(key: str) -> StrArray | None:
        return names_of(arrays[key], key, path).reshape(-1) if key in arrays else None

    return RowPrediction(
        mean=mean,
        var=np.ones_like(mean) if filled else matrix_of(arrays["var"], "var", path),
        idx=arrays["idx"],
        row=arrays.get("row"),
        genes=names("genes"),
        row_id=names("row_id"),
        split_hash=text("split_hash"),
        data_content_sha256=text("data_content_sha256"),
        space=space,
        control=text("control"),
        var_epistemic=arrays.get("var_epistemic"),
        var_filled=filled,
        intervals=intervals_of(arrays, path),
        kind=kind,
        condition=names("condition"),
        not_predicted=arrays.get("not_predicted"),
        warnings=_sentences(names("warnings")),
    )


def _sentences(given: StrArray | None) -> tuple[str, ...]:
    """Return the warnings of a file, each one printable line."""
    texts = [] if given is None else [" ".join(str(s).split())[:_LONGEST] for s in given[:_SENTENCES]]
    return tuple(dict.fromkeys(s for s in texts if s and s.isprintable()))
