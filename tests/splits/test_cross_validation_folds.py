"""Folds of a cross-validation: a partition of what is held out, made at once or one at a time."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest

from perturbfm_core.config import Frozen
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import KINDS, Draft, split_kind
from tests.support.factories import grid_rows, screen, split_all, split_one
from tests.support.split_screens import GRID


def _units(kind: str) -> list[str]:
    genes = ["A", "B", "C", "D", "E", "F", "G"]
    return {"context_ood": [f"c{i}" for i in range(7)], "perturbation_ood": genes}.get(
        kind, ["+".join(p) for p in combinations(genes[:5], 2)]
    )


def _screen_of(kind: str) -> PerturbDataset:
    if kind == "context_ood":
        return screen(grid_rows(["A", "B"], _units(kind)))
    singles = ["A", "B", "C", "D", "E", "F", "G"]
    return screen(grid_rows(singles + (_units(kind) if kind == "combo_ood" else ["A+B"]), ["x", "y"]))


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("kind", ["context_ood", "perturbation_ood", "combo_ood"])
def test_k_folds_partition_the_held_out_units(kind: str, k: int) -> None:
    ds = _screen_of(kind)
    folds = split_all(ds, kind, folds=k, seed=3)
    held = [f.definition.params["holdout"] for f in folds]
    assert sorted(u for h in held for u in h) == sorted(_units(kind))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    assert [(f.definition.cv.fold, f.definition.cv.k) for f in folds if f.definition.cv] == [
        (i, k) for i in range(k)
    ]
    assert len({f.definition.cv.group for f in folds if f.definition.cv}) == 1
    assert len({f.hash for f in folds}) == k


@pytest.mark.parametrize("kind", ["context_ood", "perturbation_ood", "combo_ood", "covariate_transfer"])
def test_a_fold_made_alone_is_the_fold_made_with_the_others(kind: str) -> None:
    ds = _screen_of("combo_ood" if kind == "covariate_transfer" else kind)
    folds = split_all(ds, kind, folds=3)
    assert [split_one(ds, kind, folds=3, fold=i).hash for i in range(3)] == [f.hash for f in folds]


def test_folds_of_other_seeds_are_another_cross_validation() -> None:
    ds = _screen_of("combo_ood")
    groups = {
        f.definition.cv.group
        for s in (0, 1)
        for f in split_all(ds, "combo_ood", folds=2, seed=s)
        if f.definition.cv
    }
    assert len(groups) == 2


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        pytest.param(
            "context_ood", {"folds": 4}, "4 folds need at least 4 contexts, found 3; ask for fewer", id="k"
        ),
        pytest.param(
            "combo_ood", {"folds": 2, "fold": 2}, "fold 2 of 2 does not exist; folds count from 0", id="fold"
        ),
        pytest.param(
            "leave_one_context_out", {"fold": 3}, "fold 3 does not exist: there are 3 contexts", id="context"
        ),
        pytest.param(
            "covariate_transfer", {"folds": 16}, "16 folds need at least 16 pairs, found 15; ask", id="pairs"
        ),
        pytest.param("iid", {"folds": 2}, "iid takes --seed for repeats, not --folds", id="iid"),
        pytest.param(
            "leave_one_context_out", {"folds": 5}, "'leave_one_context_out' makes no 5 folds", id="contexts"
        ),
    ],
)
def test_impossible_folds_are_refused(kind: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=re.escape(message)):
        split_all(screen(GRID), kind, **spec)


@pytest.mark.parametrize("folds", [2, 3, 10])
def test_folds_of_a_kind_that_makes_none_are_refused(monkeypatch: pytest.MonkeyPatch, folds: int) -> None:
    def held(conditions: Any, spec: Any, params: Any) -> list[Draft]:
        """Hold out one condition."""
        return [Draft(test=[str(conditions.index[-1])], params={}, ood_axes=("pair",))]

    _ = len(KINDS)
    for name in ("_members", "_order"):
        monkeypatch.setattr(KINDS, name, dict(getattr(KINDS, name)))
    split_kind("one_condition", Frozen)(held)
    ds = screen(GRID)
    assert len(split_all(ds, "one_condition")) == 1
    with pytest.raises(SplitError, match=f"'one_condition' makes no {folds} folds .*; give no --folds"):
        split_all(ds, "one_condition", folds=folds)
