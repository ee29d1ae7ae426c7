"""Where residuals come from: conditions that their predictor did not see, scored as test conditions are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.prediction import Prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.models.base import new_model
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.splits.residuals import as_scored, calibration_fold, new_units, out_of_fold
from perturbfm_core.splits.view import TrainView, train_view
from tests.support.factories import conditions_of, simulated, split_one, view_of

SINGLES = [("c", p) for p in ("A", "B", "C", "D")]
INNER = [[0, 1], [2, 3]]


def fitted(view: TrainView, name: str = "global_mean") -> Any:
    model = new_model(name)
    model.fit(view, 0)
    return model


def test_a_model_keeps_its_predictions_of_held_out_conditions() -> None:
    delta = np.asarray([[1.0, 0], [3, 0], [5, 0], [7, 0]])
    oof = fitted(view_of(SINGLES, delta, inner=INNER)).oof
    assert oof.conditions["pert_id"].tolist() == ["A", "B", "C", "D"]
    assert np.array_equal(oof.truth, delta)
    # Each fold's mean is that of the other fold.
    assert oof.prediction.mean[:, 0].tolist() == [6, 6, 2, 2]
    assert oof.fold.tolist() == [0, 0, 1, 1]
    assert oof.source == "out_of_fold"
    keys = conditions_of(SINGLES).index
    assert oof.fitted == (frozenset(keys[2:]), frozenset(keys[:2]))


def test_the_variance_of_a_fold_is_that_of_the_other_folds_residuals() -> None:
    rng = np.random.default_rng(0)
    delta = rng.normal(size=(4, 300))
    oof = fitted(view_of(SINGLES, delta, inner=INNER)).oof
    residual = oof.residual
    for fold in (0, 1):
        per_gene = (residual[oof.fold != fold] ** 2).mean(axis=0)
        expected = (2 * per_gene + 5 * per_gene.mean()) / 7
        for row in oof.prediction.var[oof.fold == fold]:
            np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_conditions_that_a_fold_does_not_predict_have_no_residual() -> None:
    view = view_of(SINGLES, np.arange(4.0)[:, None] * np.ones(2), inner=INNER)
    lacks = [np.asarray([True, False]), np.asarray([False, False])]
    zero = np.zeros((2, 2), dtype=np.float32)
    parts = [
        (seen, held, Prediction(zero, zero, not_predicted=absent))
        for (seen, held), absent in zip(view.inner, lacks, strict=True)
    ]
    oof = out_of_fold(view, parts)
    assert oof is not None
    assert oof.truth[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert oof.fold.tolist() == [0, 1, 1]
    assert (
        out_of_fold(view, [(*parts[0][:2], Prediction(zero, zero, not_predicted=np.ones(2, dtype=bool)))])
        is None
    )


@pytest.mark.parametrize("name", ["control_only", "global_mean", "linear", "additive"])
def test_the_truth_of_a_condition_enters_neither_its_mean_nor_its_variance(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = [*SINGLES, ("c", "A+C"), ("c", "E"), ("c", "F")]
    delta = rng.normal(size=(7, 8)).astype(np.float32)
    # A+C is held out by two folds, as a part of either.
    inner = [[0, 1, 4], [2, 3, 4], [5, 6]]
    plain = fitted(view_of(rows, delta, inner=inner), name).oof
    changed = delta.copy()
    changed[4] += 100
    other = fitted(view_of(rows, changed, inner=inner), name).oof
    perts = plain.conditions["pert_id"].to_numpy()
    assert (perts == "A+C").sum() == 2
    mine = perts == "A+C"
    assert np.array_equal(plain.prediction.mean[mine], other.prediction.mean[mine])
    # The other folds' residuals are of predictors that a combination does not enter.
    if name in ("control_only", "additive"):
        assert np.array_equal(plain.prediction.var[mine], other.prediction.var[mine])
    # The variance of other folds has its residual.
    assert (other.prediction.var[perts == "E"] > 100 * plain.prediction.var[perts == "E"]).all()


def test_a_model_that_can_hold_nothing_out_has_no_residuals() -> None:
    assert fitted(view_of(SINGLES, np.ones((4, 3)))).oof is None


@pytest.mark.parametrize(
    ("unit", "held", "seen", "expected"),
    [
        pytest.param(
            "perturbation", [("c", "A+B")], [("c", "B")], ("perturbation", [("A",)]), id="one part new"
        ),
        pytest.param(
            "perturbation", [("c", "A+B")], [("c", "C")], ("perturbation", [("A", "B")]), id="both new"
        ),
        pytest.param(
            "combo", [("c", "A+B")], [("c", "A"), ("c", "B")], ("combo", [("A+B",)]), id="combination"
        ),
        pytest.param("context", [("x", "A")], [("y", "A")], ("context", [("x",)]), id="context"),
        pytest.param(
            "context", [("x", "A")], [("x", "B")], ("perturbation", [("A",)]), id="one context only"
        ),
        pytest.param("context", [("x", "A")], [("x", "A")], ("condition", None), id="nothing new"),
    ],
)
def test_units_are_those_that_the_predictor_had_not_seen(
    unit: Any, held: Any, seen: Any, expected: tuple[str, Any]
) -> None:
    conditions = conditions_of(held)
    kind, units = new_units(conditions, conditions_of(seen), unit)
    assert kind == expected[0]
    assert units == (expected[1] or [(conditions.index[0],)])


# ---- the truth of residuals ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screened() -> Any:
    ds = simulated(n_obs=2400, n_genes=40, n_contexts=2, n_perts=20, n_combos=0, control_fraction=0.2)
    split = split_one(ds, "perturbation_ood", {}, folds=4, fold=0, calibration="fold", calib_frac=0.3)
    return ds, split, train_view(ds, split)


def test_residuals_are_taken_against_the_controls_that_scores_subtract(screened: Any) -> None:
    ds, split, view = screened
    oof = fitted(view, "ridge").oof
    assert not ds.controls.shared.any()
    table = condition_table(ds, split.rows(ds, "train"))
    at = table.conditions.index.get_indexer(oof.conditions.index)
    found = as_scored(ds, split, oof)
    np.testing.assert_array_equal(oof.truth, table.delta["input"][at])
    np.testing.assert_array_equal(found.truth, table.delta["reference"][at])
    assert found.prediction is oof.prediction
    # A model learns the noise of its input controls: against them its errors look smaller than they are.
    assert (found.residual**2).mean() > (oof.residual**2).mean()


def test_the_calibration_fold_is_predicted_by_the_final_model(screened: Any) -> None:
    ds, split, view = screened
    model = fitted(view, "ridge")
    found = calibration_fold(ds, split, view, model.predict)
    assert set(found.conditions.index) == set(split.definition.folds.table["calib"])
    assert found.source == "calibration_fold"
    assert (found.unit, {len(u) for u in found.units}) == ("perturbation", {1})
    assert found.fitted == (frozenset(view.conditions.index),)
    truth = condition_table(ds, split.rows(ds, "calib")).delta
    np.testing.assert_array_equal(as_scored(ds, split, found).truth, truth["reference"])


def test_validation_conditions_count_as_seen(screened: Any) -> None:
    ds = screened[0]
    split = split_one(
        *(ds, "perturbation_ood", {}),
        folds=4,
        fold=0,
        calibration="fold",
        calib_frac=0.3,
        validation="fold",
        val_frac=0.2,
    )
    view = train_view(ds, split)
    found = calibration_fold(ds, split, view, fitted(view).predict)
    assert view.validation is not None
    assert set(view.validation.conditions.index) <= found.fitted[0]


def test_a_split_without_a_calibration_fold_has_no_residuals_of_one(screened: Any) -> None:
    ds = screened[0]
    split = split_one(ds, "perturbation_ood", {}, folds=4, fold=0, calibration="inner_cv")
    view = train_view(ds, split)
    with pytest.raises(SplitError, match="has no calibration fold; its calibration is 'inner_cv'"):
        calibration_fold(ds, split, view, fitted(view).predict)


def test_residuals_of_other_conditions_are_refused(screened: Any) -> None:
    ds, split, view = screened
    oof = fitted(view).oof
    strange = replace(oof, conditions=conditions_of([("x", f"Q{i}") for i in range(len(oof))]))
    with pytest.raises(SplitError, match="neither fits nor calibrates on"):
        as_scored(ds, split, strange)


def test_every_baseline_brings_residuals(screened: Any) -> None:
    view = screened[2]
    for name in (
        "control_only",
        "global_mean",
        "per_perturbation_mean",
        "additive",
        "latent_shift",
        "linear",
    ):
        model = fitted(view, name)
        assert isinstance(model, Baseline)
        assert len(model.oof) == len(view)  # type: ignore[arg-type]
