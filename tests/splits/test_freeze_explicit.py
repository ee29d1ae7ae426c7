"""Splits by lists of conditions (`explicit`): what is listed, what is not, and axes of what is new."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.errors import SplitError
from perturbfm_core.pipeline.split import split_stats
from perturbfm_core.splits.audit.core import audit
from perturbfm_core.splits.earlier import freeze_beside, freeze_rows_beside
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.held_out import held_out
from perturbfm_core.splits.kinds.explicit import unlisted
from perturbfm_core.splits.perturbench.saved import freeze_rows
from perturbfm_core.splits.split import CROSSED
from tests.support.factories import (
    grid_rows,
    perts_of,
    screen,
    split_all,
    split_one,
    table_of,
)

GRID = grid_rows(["A", "B", "C", "A+B", "B+C"], ["x", "y", "z"])


def test_explicit_folds_take_perturbation_ids_and_condition_keys() -> None:
    ds = screen(GRID)
    split = split_one(
        ds,
        "explicit",
        {"folds": {"test": ["B+A", "x|C|||"], "val": ["B+C"], "calib": ["y|C|||"], "unused": ["z|C|||"]}},
    )
    table = table_of(split)
    assert table["test"] == ["x|A+B|||", "x|C|||", "y|A+B|||", "z|A+B|||"]
    assert table["val"] == ["x|B+C|||", "y|B+C|||", "z|B+C|||"]
    assert table["calib"] == ["y|C|||"]
    assert table["unused"] == ["z|C|||"]
    assert perts_of(table["train"]) == {"A", "B"}
    assert (split.definition.validation, split.definition.calibration) == ("fold", "fold")


@pytest.mark.parametrize(
    ("test", "axis", "held"),
    [
        pytest.param(
            ["x|A|||", "x|B|||", "x|C|||", "x|A+B|||", "x|B+C|||"], "context", "context x", id="context"
        ),
        pytest.param(["A+B"], "combo", "combination A+B", id="combination"),
        pytest.param(["A+B", "C"], "perturbation", "2 perturbations: A+B, C", id="perturbation"),
        pytest.param(["x|A|||"], "pair", "context and perturbation x/A", id="pair"),
    ],
)
def test_explicit_folds_record_what_is_new_in_test(test: list[str], axis: str, held: str) -> None:
    split = split_one(screen(GRID), "explicit", {"folds": {"test": test}})
    assert split.definition.ood_axes == (axis,)
    assert held_out(split.definition) == held


BOTH_NEW = {
    "test": ["x|A|||"],
    "unused": ["x|B|||", "x|C|||", "x|A+B|||", "x|B+C|||", "y|A", "z|A", "y|A+B", "z|A+B"],
}


@pytest.mark.parametrize(
    ("folds", "axes", "earlier", "unit"),
    [
        pytest.param(
            BOTH_NEW, ("context", "perturbation"), "context", CROSSED, id="context-and-perturbation"
        ),
        # Train has the combination in other contexts.
        pytest.param({"test": ["x|A+B|||"]}, ("pair",), "combo", "pair", id="known-combination"),
    ],
)
def test_explicit_folds_record_more_than_they_did(
    tmp_path: Path, folds: dict[str, list[str]], axes: tuple[str, ...], earlier: str, unit: str
) -> None:
    """Inner folds are of the same kind; what was frozen with one axis is found again, listed by condition or by row."""
    ds, folder = screen(GRID), SplitFolder(tmp_path)
    spec = SplitSpec(kind="explicit", params={"folds": folds})
    (split,), (old,) = freeze(ds, spec), freeze(ds, spec, rule=4)
    assert (split.definition.ood_axes, old.definition.ood_axes) == (axes, (earlier,))
    assert split.definition.inner is not None
    assert split.definition.inner.unit == unit
    assert not [f for f in audit(ds, split) if f.name != "batch_confounding"]
    by_row = [freeze_rows(ds, split.codes(ds), {}, rule=rule) for rule in (5, 4)]
    assert [s.definition.ood_axes for s in by_row] == [axes, (earlier,)]
    assert freeze_rows_beside(folder, ds, split.codes(ds), {}).hash == by_row[0].hash
    for one in (old, by_row[1]):
        folder.save(one, split_stats(ds, one, bounds=False))
    assert [s.hash for s in freeze_beside(folder, ds, spec)] == [old.hash]
    assert freeze_rows_beside(folder, ds, split.codes(ds), {}).hash == by_row[1].hash


def test_conditions_that_a_list_does_not_name_train_unless_it_says_not() -> None:
    ds = screen(GRID)
    listed = {"folds": {"test": ["A"], "train": ["B"]}}
    left = unlisted(ds, listed)
    assert perts_of(left) == {"C", "A+B", "B+C"}
    assert set(left) <= set(table_of(split_one(ds, "explicit", listed))["train"])
    out = table_of(split_one(ds, "explicit", {**listed, "unlisted": "unused"}))
    assert (perts_of(out["train"]), set(out["unused"])) == ({"B"}, set(left))
    # Nothing is said where the list names none of train, or the request says what they are.
    assert unlisted(ds, {"folds": {"test": ["A"]}}) == unlisted(ds, {**listed, "unlisted": "train"}) == []


def test_explicit_lists_of_one_group_are_one_cross_validation() -> None:
    ds = screen(GRID)
    folds = [
        split_one(ds, "explicit", {"folds": {"test": [p]}, "cv_group": "mine"}, folds=2, fold=i)
        for i, p in enumerate(["A", "B"])
    ]
    other = split_one(ds, "explicit", {"folds": {"test": ["A"]}, "cv_group": "other"}, folds=2, fold=0)
    groups = [f.definition.cv.group for f in [*folds, other] if f.definition.cv]
    assert groups[0] == groups[1] != groups[2]
    assert [f.definition.cv.fold for f in folds if f.definition.cv] == [0, 1]


@pytest.mark.parametrize(
    ("kind", "said", "plain"),
    [
        (
            "covariate_transfer",
            {"params": {"covariate": "context", "test_frac": 0.2}, "folds": 3},
            {"folds": 3},
        ),
        ("leave_one_context_out", {"folds": 3}, {}),
    ],
)
def test_one_cross_validation_is_one_group_however_it_is_asked_for(
    kind: str, said: dict[str, Any], plain: dict[str, Any]
) -> None:
    ds = screen(GRID)
    both = [freeze(ds, SplitSpec(kind=kind, **spec)) for spec in (said, plain)]
    one = freeze(ds, SplitSpec(kind=kind, fold=1, **plain))
    assert [s.hash for s in both[0]] == [s.hash for s in both[1]]
    assert [s.hash for s in one] == [both[0][1].hash]


def test_a_listed_fold_of_a_cross_validation_needs_its_name() -> None:
    with pytest.raises(SplitError, match="needs --cv-group NAME"):
        split_one(screen(GRID), "explicit", {"folds": {"test": ["A"]}}, folds=2, fold=0)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        pytest.param(
            {"test": ["Z"]}, "condition 'Z' of fold 'test' is not in the data set; give", id="unknown"
        ),
        pytest.param(
            {"test": ["A"], "val": ["x|A|||"]}, "'x|A|||' is listed in folds 'test' and 'val'", id="twice"
        ),
        pytest.param(
            {"tset": ["A"]}, "unknown fold 'tset' in the list of conditions; known: train, val", id="fold"
        ),
        pytest.param({"val": ["A"]}, "names no test condition; give {'test': [...]}", id="no test"),
        pytest.param(
            {"test": ["A", "B", "C", "A+B", "B+C"]}, "nothing is left to train on; hold out less", id="all"
        ),
        pytest.param(
            {"test": ["A", "B", "C"], "val": ["A+B"], "calib": ["B+C"]},
            "nothing is left to train",
            id="given",
        ),
    ],
)
def test_explicit_folds_refuse_impossible_lists(folds: dict[str, list[str]], message: str) -> None:
    with pytest.raises(SplitError, match=re.escape(message)):
        split_all(screen(GRID), "explicit", {"folds": folds})
