"""Scores of a model on inner folds of train, by which models are chosen without looking at test."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.prediction import OutOfFold
from perturbfm_core.evaluation.rowwise import pearson
from perturbfm_core.schema import FloatArray


def inner_scores(residuals: OutOfFold | None, center: FloatArray) -> dict[str, float]:
    """Return the mean over held-out conditions of ``pearson`` and ``pearson_centered``; empty without folds.

    The metrics are those of panel ``delta`` with these names; a condition held out by several folds counts in each.

    Parameters
    ----------
    residuals
        Predictions of train conditions by models that were fitted without them.
    center
        [G], mean delta of the train conditions, log1p units.
    """
    if residuals is None or residuals.source != "out_of_fold" or not len(residuals.truth):
        return {}
    mean, truth = residuals.prediction.mean.astype(np.float64), residuals.truth.astype(np.float64)
    sides = {"pearson": np.zeros(truth.shape[1]), "pearson_centered": center.astype(np.float64)}
    out = {}
    for name, c in sides.items():
        # A constant prediction has no correlation; it counts as 0, so that a model is not judged by only the
        # conditions where its correlation is defined.
        values = np.nan_to_num(pearson(mean - c, truth - c), nan=0.0)
        out[name] = float(values.mean())
    return out
