"""Predictions with Gaussian intervals, and train tables, for tests of calibration reports."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from perturbfm_core.data.intervals import Intervals
from perturbfm_core.evaluation.comparison import Comparison, TrainSide
from perturbfm_core.schema import COVERAGE_LEVELS
from tests.support.factories import comparison_of, conditions_of


def train_of(perts: list[str], delta: Any = None, context: str = "c") -> TrainSide:
    conditions = conditions_of([(context, p) for p in perts])
    delta = np.zeros((len(perts), 4)) if delta is None else np.asarray(delta, dtype=np.float64)
    return TrainSide(conditions, delta, None, np.ones(len(perts), dtype=np.int64))


def gaussian_intervals(C: int, G: int, times: float = 1.0) -> Intervals:
    z = times * stats.norm.ppf(0.5 + np.asarray(COVERAGE_LEVELS) / 2)
    factor = np.broadcast_to(z[:, None, None], (4, C, 1)).astype(np.float64)
    return Intervals(
        np.asarray(COVERAGE_LEVELS), factor, np.zeros(G, dtype=np.int16), effective=np.full(C, 33.0)
    )


def calibrated(C: int = 30, G: int = 200, seed: int = 0, **fields: Any) -> Comparison:
    """Return a calibrated prediction of conditions whose errors differ in size as the variance says."""
    rng = np.random.default_rng(seed)
    sigma = np.exp(rng.normal(size=(C, 1))) * np.ones(G)
    mean = sigma * rng.normal(size=(C, G))
    given = {"intervals": gaussian_intervals(C, G), **fields}
    return comparison_of(mean + sigma * rng.normal(size=(C, G)), mean, var=sigma**2, **given)
