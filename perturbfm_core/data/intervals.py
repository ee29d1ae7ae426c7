"""Calibrated prediction intervals, as multiples of the predicted standard deviation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

_INTERVAL_KEYS = ("interval_levels", "interval_factor", "gene_bin")


@dataclass(frozen=True, eq=False)
class Intervals:
    """Central prediction intervals, as multiples of the predicted standard deviation.

    Attributes
    ----------
    levels
        float64 [L], nominal coverage of each interval, ascending.
    factor
        float32 [L, R, B]: half-width in standard deviations for each level, row and bin of genes; NaN where
        no interval of that level can be given.
    gene_bin
        int16 [G], bin of each gene.
    flag
        bool [R], rows whose interval was widened because too few calibration units are similar to them; None
        if there are none.
    effective
        float32 [R], effective number of calibration units used for each row's interval, None where unknown.
    """

    levels: FloatArray
    factor: FloatArray
    gene_bin: IntArray
    flag: BoolArray | None = None
    effective: FloatArray | None = None

    def __post_init__(self) -> None:
        problem = None
        n_rows = self.factor.shape[1] if self.factor.ndim == 3 else 0
        if self.levels.ndim != 1 or not (np.all(self.levels > 0) and np.all(self.levels < 1)):
            problem = f"interval_levels must be numbers between 0 and 1, found {self.levels}"
        elif self.factor.ndim != 3 or len(self.factor) != len(self.levels):
            problem = f"interval_factor {self.factor.shape} must be [{len(self.levels)} levels, rows, bins]"
        elif self.gene_bin.ndim != 1 or self.gene_bin.dtype.kind not in "iu":
            problem = f"gene_bin must be int16 [genes], found {self.gene_bin.dtype} {self.gene_bin.shape}"
        elif (
            len(self.gene_bin) and not 0 <= self.gene_bin.min() <= self.gene_bin.max() < self.factor.shape[2]
        ):
            problem = f"gene_bin points outside the {self.factor.shape[2]} bins"
        elif (self.factor < 0).any() or np.isinf(self.factor).any():
            problem = "interval_factor has negative or infinite values; NaN means no interval"
        elif any(x is not None and x.shape != (n_rows,) for x in (self.flag, self.effective)):
            problem = f"interval_flag and interval_effective must have one value for each of {n_rows} rows"
        if problem is not None:
            msg = f"prediction is malformed: {problem}"
            raise PredictionError(msg)

    def half_width(self, level: int, var: FloatArray) -> FloatArray:
        """Return float64 [R, G], half-width of the intervals of one level; NaN where there is no interval.

        `level` is a position in `levels`, `var` the predicted variance [R, G].
        """
        factor: FloatArray = self.factor[level].astype(np.float64)[:, self.gene_bin] * np.sqrt(var)
        return factor

    def rows(self, positions: IntArray) -> Intervals:
        """Return the intervals of the rows at the given positions, in that order."""
        flag = None if self.flag is None else self.flag[positions]
        effective = None if self.effective is None else self.effective[positions]
        return Intervals(self.levels, self.factor[:, positions], self.gene_bin, flag, effective)

    def without(self, rows: BoolArray) -> Intervals:
        """Return the intervals of which those of some rows (bool [R]) are undefined."""
        return replace(self, factor=np.where(rows[None, :, None], np.float32(np.nan), self.factor))


def intervals_of(arrays: dict[str, Any], path: Path) -> Intervals | None:
    """Return the intervals that the arrays of a prediction file hold, None without; `path` names it in messages.

    Raises
    ------
    PredictionError
        If some of their arrays are missing or malformed.
    """
    present = [key for key in _INTERVAL_KEYS if key in arrays]
    if not present:
        return None
    if len(present) < len(_INTERVAL_KEYS):
        msg = f"{path} has {', '.join(present)} only; intervals need {', '.join(_INTERVAL_KEYS)}"
        raise PredictionError(msg)
    levels, factor = arrays["interval_levels"], arrays["interval_factor"]
    if levels.dtype.kind != "f" or factor.dtype.kind != "f":
        msg = f"{path}: interval_levels and interval_factor must be floats, found {levels.dtype}, {factor.dtype}"
        raise PredictionError(msg)
    flag, effective = arrays.get("interval_flag"), arrays.get("interval_effective")
    return Intervals(
        levels.astype(np.float64),
        factor.astype(np.float32),
        arrays["gene_bin"],
        None if flag is None else flag.astype(np.bool_),
        None if effective is None else effective.astype(np.float32),
    )
