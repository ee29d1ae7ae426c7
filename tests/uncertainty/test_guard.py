"""Nothing calibrates on test rows, or on rows that the predictor knew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.prediction import OutOfFold
from perturbfm_core.errors import SplitError
from perturbfm_core.uncertainty.calibrator import Calibrator
from perturbfm_core.uncertainty.config import UncertaintyConfig
from perturbfm_core.uncertainty.guard import guard_of
from tests.support.factories import conditions_of, simulated, split_one
from tests.support.residuals import guard_for, residuals_of, world


def honest(n: int = 30, **fields: object) -> OutOfFold:
    truth, mean, var = world(n)
    return residuals_of(truth, mean, var, **fields)  # type: ignore[arg-type]


def fit(residuals: OutOfFold, **guard: object) -> Calibrator:
    mine = replace(guard_for(residuals), **guard) if guard else guard_for(residuals)  # type: ignore[arg-type]
    return Calibrator.fit(UncertaintyConfig(), residuals, mine, np.ones(residuals.truth.shape[1]))


@pytest.mark.parametrize("source", ["out_of_fold", "calibration_fold"])
def test_residuals_of_unseen_conditions_pass(source: str) -> None:
    assert fit(honest(source=source)).info["residuals"] == source


@pytest.mark.parametrize("source", ["out_of_fold", "calibration_fold"])
def test_test_conditions_are_refused(source: str) -> None:
    residuals = honest(source=source)
    tested = frozenset(residuals.conditions.index[[3, 7]])
    with pytest.raises(SplitError, match="2 test conditions are among the calibration residuals"):
        fit(residuals, test=tested)


def test_residuals_of_the_fit_itself_are_refused() -> None:
    with pytest.raises(SplitError, match="the model's own fit"):
        fit(honest(source="in_sample"))


def test_conditions_that_their_predictor_was_fitted_on_are_refused() -> None:
    residuals = honest(folds=2, fitted=[["Z"], ["Z", "U20"]])
    with pytest.raises(SplitError, match=r"fitted or stopped on by the predictor of fold 1 \(first: 'c\|U20"):
        fit(residuals)


def test_a_condition_fitted_by_the_predictor_of_another_fold_is_allowed() -> None:
    assert fit(honest(folds=2, fitted=[["U20"], ["U3"]])).conformal is not None


def test_residuals_must_name_the_conditions_that_were_fitted() -> None:
    residuals = replace(honest(), fitted=())
    with pytest.raises(SplitError, match="do not say what their predictors were fitted on"):
        fit(residuals)


def test_conditions_of_neither_train_nor_calibration_are_refused() -> None:
    residuals = honest()
    with pytest.raises(SplitError, match="30 calibration conditions are not of train"):
        fit(residuals, fitted=frozenset())
    with pytest.raises(SplitError, match="not of the calibration fold"):
        fit(replace(residuals, source="calibration_fold"), calibration=frozenset())


def test_units_that_the_predictor_knew_are_refused() -> None:
    """Cells of trained perturbations: another condition, nothing new about it."""
    residuals = honest(units=[(f"U{i}",) if i else () for i in range(30)])
    with pytest.raises(SplitError, match="no unit that is new to their predictor"):
        fit(residuals)


def test_scaling_has_the_same_guard() -> None:
    residuals, bad = honest(), honest(fitted=[["U5"]])
    with pytest.raises(SplitError, match="fitted or stopped on"):
        Calibrator.fit(UncertaintyConfig(), residuals, guard_for(residuals), np.ones(30), for_scaling=bad)


def test_the_guard_of_a_split_knows_its_folds() -> None:
    ds = simulated(n_obs=900, n_genes=40, n_contexts=2, n_perts=20, n_combos=0)
    split = split_one(ds, "perturbation_ood", {}, folds=4, fold=0, calibration="fold", calib_frac=0.3)
    guard = guard_of(ds, split)
    table = split.definition.folds.table  # type: ignore[union-attr]
    assert guard.fitted == frozenset(table["train"])
    assert guard.calibration == frozenset(table["calib"])
    assert guard.test == frozenset(table["test"])
    assert not guard.by_row


def test_where_rows_are_divided_a_condition_may_be_on_both_sides() -> None:
    ds = simulated(n_obs=900, n_genes=40, n_contexts=2, n_perts=20, n_combos=0)
    split = split_one(ds, "iid", {}, calibration="fold")
    guard = guard_of(ds, split)
    assert guard.by_row
    assert guard.test & guard.fitted
    known = next(iter(guard.calibration & guard.fitted))
    rows = conditions_of([known.split("|")[:2]])
    rows.index = [known]
    residuals = replace(honest(1, source="calibration_fold"), conditions=rows, fitted=(frozenset({known}),))
    guard.check(residuals)
