"""Numbers as they stand in the data of a page: four significant digits, None for what is not finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.schema import FloatArray

DIGITS = 4


def compact(values: Any, digits: int = DIGITS) -> list[Any]:
    """Return numbers of an array of any shape as nested lists, rounded to significant digits, None for NaN."""
    x: FloatArray = np.asarray(values, dtype=np.float64)
    bad = ~np.isfinite(x)
    size = np.where(bad | (x == 0), 1.0, np.abs(x))
    power = 10.0 ** (digits - 1 - np.floor(np.log10(size)))
    out = (np.round(np.where(bad, 0.0, x) * power) / power).astype(object)
    out[bad] = None
    found: list[Any] = out.tolist()
    return found


def one(value: Any) -> float | None:
    """Return one number as `compact` does, None for what is none."""
    if not isinstance(value, int | float) or value != value or value in (float("inf"), float("-inf")):
        return None
    return float(f"{float(value):.{DIGITS}g}")
