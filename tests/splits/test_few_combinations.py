"""Validation and calibration of splits that hold out some of few combinations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline.split import split_stats
from perturbfm_core.splits.earlier import freeze_beside
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from tests.support.factories import grid_rows, screen, split_one, table_of


def doubles(n: int, contexts: Sequence[str] = ("x",)) -> PerturbDataset:
    """Return a screen of `n` combinations, and of their parts, in each context."""
    pairs = [f"A{i:02d}+B{i // 20:02d}" for i in range(n)]
    return screen(grid_rows([*sorted({g for p in pairs for g in p.split("+")}), *pairs], contexts), genes=2)


@pytest.mark.parametrize(
    ("n", "contexts", "policy"),
    [
        pytest.param(60, "x", "inner_cv", id="60"),
        pytest.param(154, "x", "inner_cv", id="154"),
        pytest.param(199 + 1, "x", "inner_cv", id="199 and one tested"),
        pytest.param(200 + 1, "x", "fold", id="200 and one tested"),
        pytest.param(66, "xyz", "inner_cv", id="195 in three contexts"),
        pytest.param(68, "xyz", "fold", id="201 in three contexts"),
    ],
)
def test_few_combinations_train_and_are_validated_on_inner_folds(n: int, contexts: str, policy: str) -> None:
    ds = doubles(n, contexts)
    first = next(p for p in ds.conditions["pert_id"].astype(str) if "+" in p)
    split = split_one(ds, "combo_ood", {"holdout": [first]})
    assert (split.definition.validation, split.definition.calibration) == (policy, policy)
    assert split.definition.inner is not None
    assert bool(table_of(split)["val"]) == (policy == "fold")


def test_folds_that_are_asked_for_are_made_of_few_combinations_too() -> None:
    split = split_one(doubles(60), "combo_ood", folds=4, fold=0, validation="fold")
    assert (split.definition.validation, split.definition.calibration) == ("fold", "inner_cv")
    assert not table_of(split)["calib"]


def test_other_kinds_do_not_count_combinations() -> None:
    split = split_one(doubles(60), "perturbation_ood", {"holdout": ["A00"]})
    assert split.definition.validation == "fold"


def test_splits_frozen_before_keep_their_rule(tmp_path: Path) -> None:
    ds, folder = doubles(80), SplitFolder(tmp_path)
    spec = SplitSpec(kind="combo_ood", folds=4, fold=0)
    (new,) = freeze_beside(folder, ds, spec)
    assert new.definition.validation == "inner_cv"
    (old,) = freeze(ds, spec, rule=1)
    folder.save(old, split_stats(ds, old, bounds=False))
    assert [s.hash for s in freeze_beside(folder, ds, spec)] == [old.hash]
    # The other folds of the cross-validation follow, another seed does not.
    whole = freeze_beside(folder, ds, spec.model_copy(update={"fold": None}))
    assert [s.definition.validation for s in whole] == ["fold"] * 4
    assert (
        freeze_beside(folder, ds, spec.model_copy(update={"seed": 1}))[0].definition.validation == "inner_cv"
    )
