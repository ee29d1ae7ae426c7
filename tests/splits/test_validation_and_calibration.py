"""Validation and calibration folds of a split, and the inner folds where there are none."""

from __future__ import annotations

from typing import Any

import pytest

from perturbfm_core.data.condition import pert_genes
from perturbfm_core.errors import SplitError
from tests.support.factories import grid_rows, perts_of, screen, split_all, split_one, table_of
from tests.support.split_screens import GRID, PAIRS, SINGLES


@pytest.mark.parametrize(
    ("train_units", "policy", "each"),
    [pytest.param(44, "inner_cv", 0, id="4 units"), pytest.param(50, "fold", 5, id="5 units")],
)
def test_folds_validate_and_calibrate_from_five_units_on_else_inner_folds(
    train_units: int, policy: str, each: int
) -> None:
    perts = [f"P{i:02d}" for i in range(train_units + 1)]
    split = split_one(screen(grid_rows(perts, ["x"]), genes=2), "perturbation_ood", {"holdout": ["P00"]})
    table = table_of(split)
    assert (split.definition.validation, split.definition.calibration) == (policy, policy)
    assert (len(table["val"]), len(table["calib"])) == (each, each)
    assert len(table["train"]) == train_units - 2 * each
    assert split.definition.inner is not None
    assert (split.definition.inner.unit, split.definition.inner.k) == ("perturbation", 5)


def test_validation_and_calibration_hold_different_units_and_what_touches_both_is_unused() -> None:
    ds = screen(grid_rows([*SINGLES, *PAIRS, "Q"], ["x"]))
    split = split_one(
        ds,
        "perturbation_ood",
        {"holdout": ["Q"]},
        validation="fold",
        calibration="fold",
        val_frac=0.2,
        calib_frac=0.2,
    )
    table = table_of(split)
    (val,) = {k for k in perts_of(table["val"]) if "+" not in k}
    (calib,) = {k for k in perts_of(table["calib"]) if "+" not in k}
    assert val != calib
    assert all(val in pert_genes(p) for p in perts_of(table["val"]))
    assert all(calib in pert_genes(p) for p in perts_of(table["calib"]))
    assert perts_of(table["unused"]) == {"+".join(sorted((val, calib)))}
    assert not {val, calib} & {g for p in perts_of(table["train"]) for g in pert_genes(p)}


def test_a_single_train_unit_leaves_validation_and_calibration_out() -> None:
    split = split_one(screen(grid_rows(["A"], ["x", "y"])), "context_ood", {"holdout": ["x"]})
    assert (split.definition.validation, split.definition.calibration) == ("none", "none")
    assert split.definition.inner is None


def test_inner_folds_are_by_perturbation_where_one_context_trains() -> None:
    split = split_one(screen(grid_rows(["A", "B", "C"], ["x", "y"])), "context_ood", {"holdout": ["x"]})
    assert split.definition.inner is not None
    assert (split.definition.inner.unit, sorted(split.definition.inner.folds)) == (
        "perturbation",
        ["A", "B", "C"],
    )
    assert split.definition.validation == "inner_cv"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(
            {"validation": "fold", "val_frac": 0.0}, "fold of 0 of 2 units is empty; raise", id="empty"
        ),
        pytest.param(
            {"validation": "fold", "calibration": "fold", "val_frac": 0.5, "calib_frac": 0.5},
            "would take all 2 train units; lower --val-frac or --calib-frac",
            id="everything",
        ),
    ],
)
def test_impossible_fractions_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split_all(screen(GRID), "context_ood", {"holdout": ["x"]}, **spec)
