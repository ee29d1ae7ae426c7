"""Correction of p-values for their number."""

from __future__ import annotations

import numpy as np

from perturbfm_core.schema import FloatArray

LEVEL = 0.05


def holm(p: FloatArray) -> FloatArray:
    """Return p-values [n] corrected for multiple testing by the method of Holm (1979); NaN is ignored and stays."""
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factor = len(order) - np.arange(len(order))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * factor), 1.0)
    return out
