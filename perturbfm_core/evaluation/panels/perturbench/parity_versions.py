"""Differences between PerturBench's versions before and within a metric of two vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from perturbfm_core.evaluation.panels.perturbench.aggregate import Version
from perturbfm_core.evaluation.panels.perturbench.vector import VECTOR_METRICS, VectorMetric
from perturbfm_core.schema import FloatArray

_ERRORS: dict[str, Callable[[FloatArray], FloatArray]] = {"mse": np.square, "rmse": np.square, "mae": np.abs}


def as_scored(A: FloatArray, version: Version) -> FloatArray:
    """Return vectors as a version scores them: V1 with 0 for infinite values, except where it compares all pairs."""
    return np.where(np.isinf(A), 0.0, A) if version == "V1" else A


def in_version(metric: str, version: Version) -> VectorMetric:
    """Return a metric as in a version: errors of V1 leave out genes that are undefined."""
    if version == "V2" or metric not in _ERRORS:
        return VECTOR_METRICS[metric]
    size = _ERRORS[metric]

    def score(P: FloatArray, R: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            D = size(P - R)
        known = ~np.isnan(D)
        n = known.sum(axis=1)
        total = np.where(known, D, 0.0).sum(axis=1)
        out: FloatArray = np.divide(total, n, out=np.full(len(D), np.nan), where=n > 0)
        return np.asarray(np.sqrt(out)) if metric == "rmse" else out

    return replace(VECTOR_METRICS[metric], score=score)
