"""Flags of what a prediction says of its own error: variances of nearly 0, intervals that it gives of a part alone."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.intervals import Intervals
from perturbfm_core.schema import BoolArray, FloatArray

# Below this, and this share of the lowest sampling variance of a gene, a variance pays in the log likelihood wherever nothing
# changes; measured means are never that precise.
_NO_VARIANCE, _SHARE = 1e-9, 0.01


def warnings_of_variance(var: FloatArray, intervals: Intervals | None, s2: FloatArray) -> list[str]:
    """Return how variances and intervals pay without being right, as sentences.

    Parameters
    ----------
    var
        Predicted variances [R, G].
    intervals
        The intervals of these rows, if there are some.
    s2
        Sampling variances of the observation [C, G], 0 where unknown.
    """
    out = []
    lowest = np.where(s2 > 0, s2, np.inf).min(axis=0, initial=np.inf)
    least = np.maximum(np.where(np.isfinite(lowest), _SHARE * lowest, 0.0), _NO_VARIANCE)
    none = float((var < least).mean()) if var.size else 0.0
    if none:
        out.append(
            f"{none:.2g} of the predicted variances are 0 or nearly so, below a hundredth of the sampling variance; "
            "`uncertainty.nll` takes 0 as 1e-12, which pays up to 13 nats for each gene that is unexpressed"
        )
    if intervals is not None and intervals.factor.size:
        # Of each row and gene, whether there is an interval of every level.
        lacking: BoolArray = np.asarray(np.isnan(intervals.factor).any(axis=0))
        missing = float(lacking[:, intervals.gene_bin].mean())
        if missing:
            out.append(
                f"{missing:.2g} of the values have no calibrated interval of some level; calibrated coverage and width describe "
                "the others"
            )
    return out
