"""Contexts, perturbations, combinations, pairs and random rows: what each kind of split holds out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.errors import SplitError
from tests.support.factories import (
    contexts_of,
    grid_rows,
    perts_of,
    reordered,
    screen,
    split_all,
    split_one,
    table_of,
)
from tests.support.split_screens import GRID, SINGLES, tried

# ---- contexts -------------------------------------------------------------------------------------------------


def test_a_held_out_context_leaves_as_a_whole_and_its_own_perturbations_are_unused() -> None:
    ds = screen([*grid_rows(["A", "B"], ["x", "y", "z"]), ("C", "x"), ("A+B", "x")])
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    table = table_of(split)
    assert table["test"] == ["x|A|||", "x|B|||"]
    assert table["unused"] == ["x|A+B|||", "x|C|||"]
    assert contexts_of(table["train"]) == {"y", "z"}
    assert split.definition.ood_axes == ("context",)


def test_leave_one_context_out_holds_out_each_context_once() -> None:
    ds = screen(grid_rows(["A", "B"], ["z", "x", "y"]))
    folds = split_all(ds, "leave_one_context_out")
    assert [f.definition.params["holdout"] for f in folds] == [["x"], ["y"], ["z"]]
    assert [contexts_of(table_of(f)["test"]) for f in folds] == [{"x"}, {"y"}, {"z"}]
    assert {f.definition.kind for f in folds} == {"context_ood"}
    assert [(f.definition.cv.fold, f.definition.cv.k) for f in folds if f.definition.cv] == [
        (0, 3),
        (1, 3),
        (2, 3),
    ]
    assert len({f.definition.cv.group for f in folds if f.definition.cv}) == 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fit_rows", ["train", "train+val"])
def test_test_perturbations_stay_seen_when_contexts_validate(seed: int, fit_rows: str) -> None:
    pairs = [("A", "u"), ("A", "v"), ("A", "w"), ("A", "x"), ("C", "w"), ("C", "x")]
    ds = screen([*(("control", c) for c in "uvwx"), *pairs])
    split = split_one(
        ds,
        "context_ood",
        {"holdout": ["x"]},
        validation="fold",
        calibration="none",
        val_frac=0.4,
        seed=seed,
        fit_rows=fit_rows,
    )
    table = table_of(split)
    fitted = perts_of(table["train"]) | (perts_of(table["val"]) if fit_rows == "train+val" else set())
    assert perts_of(table["test"]) <= fitted
    assert perts_of(table["val"]) <= perts_of(table["train"])
    assert "x|A|||" in table["test"]


# ---- perturbations and combinations ---------------------------------------------------------------------------


def test_every_condition_that_touches_a_held_out_gene_is_tested() -> None:
    split = split_one(screen(GRID), "perturbation_ood", {"holdout": ["B"]})
    table = table_of(split)
    assert perts_of(table["test"]) == {"B", "A+B", "B+C"}
    assert perts_of(table["train"]) == {"A", "C"}


def test_held_out_combinations_leave_all_singles_in_train() -> None:
    split = split_one(screen(GRID), "combo_ood", {"holdout": ["B+A"]})
    table = table_of(split)
    assert perts_of(table["test"]) == {"A+B"}
    assert perts_of(table["train"]) == {"A", "B", "C", "B+C"}


# ---- covariate transfer ---------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    seed=st.integers(0, 50),
    fraction=st.sampled_from([0.1, 0.4, 0.9]),
    validation=st.sampled_from(["auto", "fold", "none"]),
    missing=st.sets(st.tuples(st.sampled_from(SINGLES), st.sampled_from("wxyz")), max_size=6),
)
def test_covariate_transfer_keeps_both_halves_of_every_test_pair_in_train(
    seed: int, fraction: float, validation: str, missing: set[tuple[str, str]]
) -> None:
    rows = [r for r in grid_rows(SINGLES, "wxyz") if r not in missing]
    spec = SplitSpec(
        kind="covariate_transfer",
        params={"test_frac": fraction},
        seed=seed,
        validation=validation,
        calibration="none",
        val_frac=0.3,
    )
    frozen_splits, refusal = tried(screen(rows, genes=2), spec)
    if refusal:
        # Only a fold that was requested, and that train cannot spare, may be refused.
        assert validation == "fold"
        assert "without hiding a context, or half of a pair, of test" in refusal
        return
    (split,) = frozen_splits
    table = table_of(split)
    assert perts_of(table["test"]) <= perts_of(table["train"])
    assert contexts_of(table["test"]) <= contexts_of(table["train"])
    assert bool(table["val"]) == (split.definition.validation == "fold")


def test_covariate_transfer_holds_out_the_pairs_that_were_named() -> None:
    ds = screen(GRID)
    split = split_one(ds, "covariate_transfer", {"perturbations": ["A", "B"], "values": ["x"]})
    assert table_of(split)["test"] == ["x|A|||", "x|B|||"]
    assert split.definition.params["pairs"] == [["A", "x"], ["B", "x"]]
    assert split.definition.ood_axes == ("pair",)


@pytest.mark.parametrize("covariate", ["dose", "modality", "time"])
def test_covariate_transfer_takes_any_covariate(covariate: str) -> None:
    columns = {
        "dose": lambda v: {schema.DOSES: v},
        "modality": lambda v: {schema.MODALITY: v},
        "time": lambda v: {schema.COVARIATES: f'{{"time":"{v}"}}'},
    }[covariate]
    rows = [("control", "c", {}), *((p, "c", columns(v)) for p in "ABC" for v in ("1", "2"))]
    ds = screen(rows)
    split = split_one(
        ds, "covariate_transfer", {"covariate": covariate, "perturbations": ["A"], "values": ["2"]}
    )
    (key,) = table_of(split)["test"]
    assert split.definition.params["pairs"] == [["A", "2"]]
    assert key == next(k for k in ds.conditions.index if "|A|" in k and "2" in k)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param(
            {"perturbations": ["A"], "values": ["x", "y", "z"]},
            "cannot be held out: train would not see 'A' with another context",
            id="whole perturbation",
        ),
        pytest.param(
            {"covariate": "tide"},
            "unknown covariate 'tide'; known: context, dose, modality",
            id="unknown covariate",
        ),
        pytest.param({"values": ["q"]}, "unknown value of context 'q'; known: x, y, z", id="unknown value"),
        pytest.param({"test_frac": 1.5}, "test_frac must lie between 0 and 1, found 1.5", id="share"),
    ],
)
def test_covariate_transfer_refuses_impossible_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=re.escape(message)):
        split_all(screen(GRID), "covariate_transfer", params)


def test_covariate_transfer_refuses_a_pair_that_does_not_occur() -> None:
    ds = screen([("control", "x"), ("control", "y"), ("A", "x"), ("B", "y"), ("B", "x")])
    with pytest.raises(SplitError, match="occurs with a context asked for; choose other pairs"):
        split_all(ds, "covariate_transfer", {"perturbations": ["A"], "values": ["y"]})


# ---- random rows ----------------------------------------------------------------------------------------------


def test_iid_draws_rows_of_cells_and_is_bound_to_their_order() -> None:
    ds = screen(grid_rows(["A", "B"], ["x", "y"], reps=25, controls=3))
    split = split_one(ds, "iid", {"test_frac": 0.3}, validation="fold", calibration="fold")
    counts = {fold: len(split.rows(ds, fold)) for fold in schema.FOLDS}
    assert counts == {"train": 56, "val": 7, "calib": 7, "test": 30, "unused": 0}
    assert split.definition.ood_axes == ()
    with pytest.raises(SplitError, match=r"not in the order that by-row split .* was frozen with"):
        split.codes(reordered(ds, np.roll(np.arange(ds.n_obs), 1)))


def test_iid_of_condition_level_data_keeps_replicates_together() -> None:
    ds = screen(grid_rows(["A", "B", "C", "D"], ["x", "y"], reps=3), level="condition")
    split = split_one(ds, "iid", {"test_frac": 0.25})
    table = table_of(split)
    assert len(table["test"]) == 2
    assert split.definition.ood_axes == ("condition",)
    assert len(split.rows(ds, "test")) == 6


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0.0, "test_frac must lie between 0 and 1, found 0.0"),
        (1.0, "test_frac must lie between 0 and 1, found 1.0"),
        (-0.5, "test_frac must lie between 0 and 1, found -0.5"),
        ("half", "parameters of split kind 'iid': test_frac: .* number, found 'half'"),
    ],
)
def test_iid_refuses_a_test_share_that_is_not_between_0_and_1(fraction: Any, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        split_all(screen(GRID), "iid", {"test_frac": fraction})
