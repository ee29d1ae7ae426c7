"""Predictions: per condition as models make them, per row as the artifact holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.data.artifact import read_npz
from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import FloatArray, IntArray, StrArray


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of some conditions, in their order.

    Attributes
    ----------
    mean
        float32 [C, G], expected delta.
    var
        float32 [C, G], predictive variance of the observed condition mean.
    var_epistemic
        float32 [C, G], the part of `var` that more training data would remove, or None.
    """

    mean: FloatArray
    var: FloatArray
    var_epistemic: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class RowPrediction:
    """The artifact ``predictions.npz``.

    Attributes
    ----------
    mean, var
        float32 [R, G] in delta space.
    idx
        int64 [n], row positions of the data set.
    row
        int64 [n], which row of `mean` serves ``idx[i]``; None means R = n, in order.
    genes, row_id
        Names of the columns and of ``idx``, where the file has them.
    split_hash, data_content_sha256, space, control
        What it was made for, where the file says so.
    var_filled
        Whether the file had no variance and a constant was filled in.
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
        if problem is not None:
            msg = f"prediction is malformed: {problem}"
            raise PredictionError(msg)

    @property
    def rows(self) -> IntArray:
        """Return int64 [n], the row of `mean` that serves each idx."""
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
    for key in ("genes", "row_id"):
        value = getattr(prediction, key)
        if value is not None:
            arrays[key] = np.asarray(value, dtype=np.str_)
    for key in ("split_hash", "data_content_sha256", "space", "control"):
        value = getattr(prediction, key)
        if value is not None:
            arrays[key] = np.asarray(value, dtype=np.str_)
    if prediction.var_epistemic is not None:
        arrays["var_epistemic"] = prediction.var_epistemic.astype(np.float32)
    np.savez(path, **arrays)


def read_prediction(path: Path) -> RowPrediction:
    """Read a prediction npz of this or another tool; pickled objects are refused.

    A file without ``var`` gets a constant variance of 1, and is marked so.
    """
    arrays = read_npz(path, PredictionError)
    missing = [key for key in ("mean", "idx") if key not in arrays]
    if missing:
        msg = f"{path} lacks {', '.join(missing)}; a prediction has mean [R, G], var [R, G] and idx [n]"
        raise PredictionError(msg)
    mean = arrays["mean"]
    if mean.dtype.kind not in "fiu" or mean.ndim != 2:
        msg = f"{path}: mean must be float32 [rows, genes], found {mean.dtype} {mean.shape}"
        raise PredictionError(msg)
    filled = "var" not in arrays

    def text(key: str) -> str | None:
        return str(arrays[key]) if key in arrays else None

    return RowPrediction(
        mean=mean.astype(np.float32),
        var=np.ones_like(mean, dtype=np.float32) if filled else arrays["var"].astype(np.float32),
        idx=arrays["idx"],
        row=arrays.get("row"),
        genes=arrays.get("genes"),
        row_id=arrays.get("row_id"),
        split_hash=text("split_hash"),
        data_content_sha256=text("data_content_sha256"),
        space=text("space"),
        control=text("control"),
        var_epistemic=arrays.get("var_epistemic"),
        var_filled=filled,
    )
