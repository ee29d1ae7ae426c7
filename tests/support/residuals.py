"""Residuals made by hand, with units that are exchangeable and predictors that saw none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perturbfm_core.data.prediction import OutOfFold, Prediction, ResidualSource
from perturbfm_core.schema import FloatArray
from perturbfm_core.uncertainty.guard import CalibrationGuard
from perturbfm_core.uncertainty.quantiles import unit_weights, weighted_quantiles
from tests.support.factories import conditions_of


def residuals_of(
    truth: Any,
    mean: Any,
    var: Any = 1.0,
    *,
    rows: Sequence[Sequence[str]] | None = None,
    units: list[tuple[str, ...]] | None = None,
    folds: int = 1,
    fitted: Sequence[Sequence[str]] | None = None,
    source: ResidualSource = "out_of_fold",
) -> OutOfFold:
    """Return residuals of singles U0, U1, ... in context c, each a unit, unless given; `fitted` lists perturbations."""
    truth = np.asarray(truth, dtype=np.float32)
    n = len(truth)
    conditions = conditions_of(rows or [("c", f"U{i}") for i in range(n)])
    seen = fitted or [["Z"]] * folds
    return OutOfFold(
        conditions=conditions,
        truth=truth,
        prediction=Prediction(
            np.broadcast_to(np.asarray(mean, dtype=np.float32), truth.shape),
            np.broadcast_to(np.asarray(var, dtype=np.float32), truth.shape),
        ),
        units=units or [(str(p),) for p in conditions["pert_id"]],
        fold=np.arange(n) * folds // max(n, 1),
        source=source,
        unit="perturbation",
        fitted=tuple(frozenset(conditions_of([("c", p) for p in perts]).index) for perts in seen),
    )


def hierarchical_quantiles(
    scores: FloatArray, units: Sequence[tuple[str, ...]], levels: FloatArray
) -> FloatArray:
    """Return the quantiles of method ``hierarchical``: 1/(n + 1) per unit and at infinity, NaN where that is reached."""
    weights, n = unit_weights(units)
    out = weighted_quantiles(scores, weights, levels, at_infinity=1.0 / (n + 1))
    return np.asarray(np.where(np.isfinite(out), out, np.nan))


def guard_for(residuals: OutOfFold, test: Sequence[str] = ("T",)) -> CalibrationGuard:
    """Return a guard that allows these residuals, with the given perturbations in test."""
    keys = frozenset(residuals.conditions.index.astype(str))
    fitted = frozenset().union(*residuals.fitted) if residuals.fitted else frozenset()
    tested = frozenset(conditions_of([("c", p) for p in test]).index)
    if residuals.source == "calibration_fold":
        return CalibrationGuard(fitted, keys, tested)
    return CalibrationGuard(keys | fitted, frozenset(), tested)


def world(
    n: int, genes: int = 30, *, seed: int = 0, spread: float = 0.5, growth: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, mean and stated variance of exchangeable units with errors of different size.

    Each unit has an effect size; its errors have a scale of their own (log-normal with standard deviation
    `spread`), times effect size to the power `growth`. The stated variance is 1 for all.
    """
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(size=(n, 1)))
    mean = size * rng.normal(size=(n, genes))
    scale = np.exp(spread * rng.normal(size=(n, 1))) * size**growth
    # Errors of one unit go together: genes are no replicates.
    error = scale * (0.6 * rng.normal(size=(n, 1)) + 0.8 * rng.normal(size=(n, genes)))
    return mean + error, mean, np.ones_like(mean)
