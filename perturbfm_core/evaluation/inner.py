"""What inner folds say of a model: the scores by which one may be chosen without a look at test."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.prediction import OutOfFold
from perturbfm_core.evaluation.rowwise import pearson
from perturbfm_core.schema import FloatArray


def inner_scores(residuals: OutOfFold | None, center: FloatArray) -> dict[str, float]:
    """Return the mean over conditions of ``pearson`` and ``pearson_centered`` out of fold; empty without folds.

    Defined as the metrics of panel ``delta`` of these names; a condition held out by several folds counts in each.

    Parameters
    ----------
    residuals
        Predictions of train conditions by models that did not see them.
    center
        [G], mean delta of the train conditions.
    """
    if residuals is None or residuals.source != "out_of_fold" or not len(residuals.truth):
        return {}
    mean, truth = residuals.prediction.mean.astype(np.float64), residuals.truth.astype(np.float64)
    sides = {"pearson": np.zeros(truth.shape[1]), "pearson_centered": center.astype(np.float64)}
    out = {}
    for name, c in sides.items():
        # A constant prediction has no correlation; it must not be chosen for the conditions where it has.
        values = np.nan_to_num(pearson(mean - c, truth - c), nan=0.0)
        out[name] = float(values.mean())
    return out
