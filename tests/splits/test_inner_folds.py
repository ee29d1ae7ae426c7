"""Inner, validation and calibration folds are of the kind of the test fold: pairs whole, contexts and genes at once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.pipeline.split import split_stats
from perturbfm_core.splits import earlier
from perturbfm_core.splits.carving import RULE
from perturbfm_core.splits.earlier import freeze_beside
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.inner_folds import MIN_CROSSED
from perturbfm_core.splits.inner_masks import crossed_parts, inner_masks
from perturbfm_core.splits.split import CROSSED, FrozenSplit
from perturbfm_core.splits.view import train_view
from tests.support.factories import assert_both_new, grid_rows, perts_of, screen, split_one, table_of

# The rule by which doses of a pair were parted, and contexts alone held out.
BEFORE = 2
BOTH: dict[str, Any] = {"contexts": ["c0"], "perturbations": ["P0", "P1"]}


def contexts_by_genes(n_contexts: int, n_perts: int, *combos: str) -> PerturbDataset:
    perts = [*(f"P{i}" for i in range(n_perts)), *combos]
    return screen(grid_rows(perts, [f"c{i}" for i in range(n_contexts)]), genes=2)


def dosed(n_perts: int, contexts: str) -> PerturbDataset:
    """Return a screen with two doses of each drug in each context."""
    rows: list[Any] = [("control", c) for c in contexts for _ in range(3)]
    rows += [
        (f"P{i:02d}", c, {"doses": dose})
        for i in range(n_perts)
        for c in contexts
        for dose in ("1 uM", "10 uM")
    ]
    return screen(rows, genes=2)


def masks_of(ds: PerturbDataset, split: FrozenSplit) -> tuple[pd.DataFrame, list[tuple[Any, Any]]]:
    train = ds.conditions.loc[table_of(split)["train"]]
    assert split.definition.inner is not None
    return train, inner_masks(split.definition.inner, train)


@pytest.mark.parametrize(("n_contexts", "n_perts"), [(3, 4), (6, 10), (3, 40), (8, 5)])
def test_both_are_new_in_every_inner_fold(n_contexts: int, n_perts: int) -> None:
    ds = contexts_by_genes(n_contexts, n_perts, "P2+P3")
    split = split_one(ds, "context_perturbation_ood", BOTH)
    train, masks = masks_of(ds, split)
    assert split.definition.inner is not None
    assert split.definition.inner.unit == CROSSED
    held_out = np.sum([held for _, held in masks], axis=0)
    single = ~train["pert_id"].astype(str).str.contains("+", regex=False).to_numpy()
    assert held_out[single].max() == 1
    for fit, held in masks:
        assert_both_new(train[held], train[fit])
    # As many as are worth it: all where there are few, else a part of them.
    assert held_out.sum() >= min(MIN_CROSSED, int(single.sum()))
    view = train_view(ds, split)
    assert [(fit.sum(), held.sum()) for fit, held in view.inner] == [(f.sum(), h.sum()) for f, h in masks]


def test_each_pair_of_parts_is_one_fold() -> None:
    for n_contexts, n_perts in ((2, 5), (5, 2), (4, 4), (3, 5)):
        parts = [crossed_parts(fold, n_contexts, n_perts) for fold in range(n_contexts * n_perts)]
        assert len(set(parts)) == n_contexts * n_perts


def test_one_context_of_train_leaves_the_perturbations() -> None:
    ds = contexts_by_genes(2, 6)
    split = split_one(ds, "context_perturbation_ood", BOTH)
    assert split.definition.inner is not None
    assert split.definition.inner.unit == "perturbation"


def test_validation_and_calibration_have_both_new_too() -> None:
    ds = contexts_by_genes(9, 30)
    split = split_one(
        ds,
        "context_perturbation_ood",
        BOTH,
        validation="fold",
        calibration="fold",
        val_frac=0.15,
        calib_frac=0.2,
    )
    table = table_of(split)
    sizes = {fold: len(keys) for fold, keys in table.items()}
    # 8 contexts and 28 genes are left: 1 x 4 validate, 2 x 6 calibrate.
    assert (sizes["val"], sizes["calib"], sizes["train"]) == (4, 12, 5 * 18)
    rows = ds.conditions
    assert_both_new(rows.loc[table["calib"]], rows.loc[[*table["train"], *table["val"]]])
    assert_both_new(rows.loc[table["val"]], rows.loc[[*table["train"], *table["calib"]]])


def test_a_validation_fold_that_nothing_falls_into_is_refused() -> None:
    # Of the contexts that are left, z has one gene only: where z validates, that gene may be in train.
    ds = screen([*grid_rows("ABCDEF", "xyw"), ("G", "z"), ("control", "z")], genes=2)
    params = {"contexts": ["x"], "perturbations": ["A"]}
    spec = SplitSpec(kind="context_perturbation_ood", params=params, validation="fold", val_frac=0.4)
    said = []
    for seed in range(8):
        try:
            (split,) = freeze(ds, spec.model_copy(update={"seed": seed}))
        except SplitError as error:
            said.append(str(error))
        else:
            assert table_of(split)["val"]
    assert set(said) == {
        "no train condition has both a context and a perturbation of the val fold; use inner_cv, or another --seed"
    }
    assert len(said) < 8


def test_doses_of_a_pair_stay_together() -> None:
    ds = dosed(10, "xyzwuv")
    split = split_one(ds, "covariate_transfer", {"test_frac": 0.2})
    table = table_of(split)
    pairs = {fold: {tuple(key.split("|")[:2]) for key in keys} for fold, keys in table.items()}
    folds = ("train", "val", "calib", "test")
    assert all(table[fold] for fold in folds)
    assert all(not pairs[a] & pairs[b] for a in folds for b in folds if a < b)
    # Both halves of every pair are in train, in other pairs.
    for axis in (0, 1):
        assert {p[axis] for fold in folds for p in pairs[fold]} == {p[axis] for p in pairs["train"]}
    train, masks = masks_of(ds, split)
    pair = train["context_id"].astype(str) + train["pert_id"].astype(str)
    for fit, held in masks:
        assert not set(pair[fit]) & set(pair[held])


def test_by_the_earlier_rule_doses_of_a_pair_are_parted_as_they_were() -> None:
    ds = dosed(10, "xyzwuv")
    spec = SplitSpec(kind="covariate_transfer", params={"test_frac": 0.2}, validation="inner_cv")
    (split,) = freeze(ds, spec, rule=BEFORE)
    train, masks = masks_of(ds, split)
    pair = train["context_id"].astype(str) + train["pert_id"].astype(str)
    assert any(set(pair[fit]) & set(pair[held]) for fit, held in masks)


def test_contexts_of_a_pair_of_drug_and_dose_stay_together() -> None:
    ds = dosed(12, "xyz")
    split = split_one(ds, "covariate_transfer", {"covariate": "dose", "test_frac": 0.2})
    train, masks = masks_of(ds, split)
    pair = train["doses"].astype(str) + train["pert_id"].astype(str)
    assert len(masks) == 5
    for fit, held in masks:
        assert not set(pair[fit]) & set(pair[held])


@pytest.mark.parametrize(
    ("ds", "spec"),
    [
        (contexts_by_genes(6, 10), SplitSpec(kind="context_perturbation_ood", params=BOTH)),
        (contexts_by_genes(6, 10), SplitSpec(kind="context_perturbation_ood", folds=3)),
        (dosed(10, "xyzwuv"), SplitSpec(kind="covariate_transfer", folds=3)),
    ],
)
def test_splits_frozen_by_condition_and_by_context_are_found_again(
    tmp_path: Path, ds: PerturbDataset, spec: SplitSpec
) -> None:
    folder = SplitFolder(tmp_path)
    new = freeze_beside(folder, ds, spec)
    old = freeze(ds, spec, rule=BEFORE)
    assert {s.hash for s in new}.isdisjoint(s.hash for s in old)
    folder.save(old[0], split_stats(ds, old[0], bounds=False))
    # One fold that is there decides for the others of its cross-validation.
    assert [s.hash for s in freeze_beside(folder, ds, spec)] == [s.hash for s in old]


def test_what_an_earlier_rule_refuses_is_frozen_by_the_present_one(tmp_path: Path) -> None:
    ds = dosed(10, "xyzwuv")
    spec = SplitSpec(kind="context_perturbation_ood", params={"contexts": ["x"], "perturbations": ["P00"]})

    def refusing(ds: PerturbDataset, spec: SplitSpec, *, rule: int = RULE) -> list[FrozenSplit]:
        if rule != RULE:
            msg = "nothing is left to train on"
            raise SplitError(msg)
        return freeze(ds, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(earlier, "freeze", refusing)
        found = freeze_beside(SplitFolder(tmp_path), ds, spec)
    assert [s.hash for s in found] == [s.hash for s in freeze(ds, spec)]


def test_pairs_of_one_condition_keep_their_hashes() -> None:
    ds = contexts_by_genes(5, 12)
    spec = SplitSpec(kind="covariate_transfer", params={"test_frac": 0.2})
    assert {s.hash for s in freeze(ds, spec)} == {s.hash for s in freeze(ds, spec, rule=BEFORE)}


LISTED = {"test": ["P0"], "train": [f"P{i}" for i in range(1, 60)]}


def test_what_is_listed_as_train_stays_there() -> None:
    ds = contexts_by_genes(2, 60)
    split = split_one(ds, "explicit", {"folds": LISTED})
    assert {f: len(keys) for f, keys in table_of(split).items() if keys} == {"test": 2, "train": 118}
    assert (split.definition.validation, split.definition.calibration) == ("inner_cv", "inner_cv")
    # Unlisted conditions train as well, and may leave; so may listed ones where that is asked for.
    assert table_of(split_one(ds, "explicit", {"folds": {"test": ["P0"]}}))["val"]
    assert table_of(split_one(ds, "explicit", {"folds": LISTED}, validation="fold"))["val"]


@pytest.mark.parametrize("policy", ["none", "inner_cv"])
def test_what_is_asked_beside_a_list_counts(policy: str) -> None:
    ds = contexts_by_genes(2, 20)
    listed = {"folds": {"test": ["P0"], "val": ["P1", "P2"]}}
    split = split_one(ds, "explicit", listed, calibration=policy)
    assert (split.definition.validation, split.definition.calibration) == ("fold", policy)
    assert split_one(ds, "explicit", listed).definition.calibration == "inner_cv"
    assert split_one(ds, "explicit", listed, validation="fold").definition.validation == "fold"
    with pytest.raises(
        SplitError,
        match=f"--validation {policy} contradicts the list, which names conditions of the val fold",
    ):
        split_one(ds, "explicit", listed, validation=policy)
    with pytest.raises(SplitError, match="--calibration fold contradicts the list, which names no condition"):
        split_one(ds, "explicit", listed, calibration="fold")


def test_a_list_frozen_before_is_found_again(tmp_path: Path) -> None:
    ds, folder = contexts_by_genes(2, 60), SplitFolder(tmp_path)
    spec = SplitSpec(kind="explicit", params={"folds": LISTED})
    (old,) = freeze(ds, spec, rule=BEFORE)
    assert table_of(old)["val"]
    assert [s.hash for s in freeze_beside(folder, ds, spec)] != [old.hash]
    folder.save(old, split_stats(ds, old, bounds=False))
    assert [s.hash for s in freeze_beside(folder, ds, spec)] == [old.hash]


def test_train_keeps_every_context_of_test_when_doses_validate() -> None:
    rows: list[Any] = [("control", c) for c in "xyz" for _ in range(4)]
    rows += [(f"P{i}", c, {"doses": d}) for i in range(8) for c in "xy" for d in ("1 uM", "5 uM", "10 uM")]
    # In z only P0 is measured: its lower dose must not leave train.
    rows += [("P0", "z", {"doses": d}) for d in ("5 uM", "10 uM")]
    ds = screen(rows, genes=2)
    lost = {
        rule: [
            seed
            for seed in range(12)
            for table in [table_of(freeze(ds, _doses(seed), rule=rule)[0])]
            if {k.split("|")[0] for k in table["test"]} - {k.split("|")[0] for k in table["train"]}
        ]
        for rule in (BEFORE, RULE)
    }
    assert lost[BEFORE]
    assert lost[RULE] == []


def _doses(seed: int) -> SplitSpec:
    return SplitSpec(kind="dose_ood", validation="fold", val_frac=0.3, seed=seed)


LADDERS = {
    "dose_ood": ("1 uM", "3 uM", "10 uM", "30 uM"),
    "time_ood": tuple(f'{{"time":"{t} h"}}' for t in (3, 6, 12, 24)),
}


def laddered(n_perts: int, contexts: str, kind: str = "dose_ood") -> PerturbDataset:
    """Return a screen with four doses or times of each drug in each context."""
    column = "doses" if kind == "dose_ood" else "covariates"
    rows: list[Any] = [("control", c) for c in contexts for _ in range(3)]
    rows += [(f"P{i:02d}", c, {column: x}) for i in range(n_perts) for c in contexts for x in LADDERS[kind]]
    return screen(rows, genes=2)


@pytest.mark.parametrize("kind", ["dose_ood", "time_ood"])
@pytest.mark.parametrize(("mode", "tested", "next_level"), [("extrapolation", 3, 2), ("interpolation", 2, 1)])
def test_inner_folds_hold_out_the_next_dose_or_time(
    kind: str, mode: str, tested: int, next_level: int
) -> None:
    ds = laddered(12, "xy", kind)
    split = split_one(ds, kind, {"mode": mode}, validation="inner_cv", calibration="inner_cv")
    column = "doses" if kind == "dose_ood" else "covariates"
    assert set(ds.conditions.loc[table_of(split)["test"], column].astype(str)) == {LADDERS[kind][tested]}
    train, masks = masks_of(ds, split)
    at_next, pert = train[column].astype(str) == LADDERS[kind][next_level], train["pert_id"].astype(str)
    assert len(masks) == 5
    for fit, held in masks:
        assert at_next[held].all()
        # Whole perturbations, of which the other levels stay.
        assert not set(pert[held]) & set(pert[fit & at_next])
        assert set(pert[held]) <= set(pert[fit])
    assert np.array_equal(np.sum([held for _, held in masks], axis=0), at_next)


@pytest.mark.parametrize("rule", [4, RULE])
def test_conditions_of_several_times_leave_train_with_the_time_that_is_held_out(rule: int) -> None:
    """As in test: a condition of 12 h and 3 h is neither seen nor unseen where 12 h is held out. An earlier rule kept it."""
    more = ("12 h & 3 h", "6 h & 3 h", "48 h & 3 h")
    rows: list[Any] = [("control", c) for c in "xy" for _ in range(3)]
    for i, context in itertools.product(range(12), "xy"):
        times = [*LADDERS["time_ood"], *(f'{{"time":"{t}"}}' for t in more)]
        rows += [(f"P{i:02d}", context, {"covariates": t}) for t in times]
    ds = screen(rows, genes=2)
    spec = SplitSpec(kind="time_ood", validation="fold", val_frac=0.3, calibration="inner_cv")
    (split,) = freeze(ds, spec, rule=rule)
    table, times_of = table_of(split), ds.conditions["covariates"].astype(str)
    moved = perts_of(table["val"])
    assert len(moved) == 4
    assert {times_of[k] for k in table["val"]} == {LADDERS["time_ood"][2]}
    stay = {k for k in table["train"] if perts_of([k]) <= moved and "12 h & 3 h" in times_of[k]}
    train, masks = masks_of(ds, split)
    kept = [
        perts_of(train.index[held & (train["covariates"] == LADDERS["time_ood"][2])])
        & perts_of(train.index[fit & train["covariates"].astype(str).str.contains("12 h & 3 h")])
        for fit, held in masks
    ]
    assert (bool(stay), any(kept)) == (rule == 4, rule == 4)
    assert all((fit & train["covariates"].astype(str).str.contains("6 h & 3 h")).any() for fit, _ in masks)


def test_of_one_drug_the_next_dose_of_single_contexts_is_held_out() -> None:
    train, masks = masks_of(ds := laddered(1, "abcdef"), split_one(ds, "dose_ood", validation="inner_cv"))
    assert len(masks) == 5
    for fit, held in masks:
        assert set(train["doses"][held].astype(str)) == {"10 uM"}
        assert set(train["context_id"][held]) <= set(train["context_id"][fit])


def test_a_single_next_dose_leaves_folds_of_perturbations() -> None:
    rows: list[Any] = [("control", "x") for _ in range(4)]
    rows += [(f"P{i}", "x", {"doses": d}) for i in range(4) for d in ("1 uM", "10 uM")]
    for extra, unit in ((1, "perturbation"), (2, "condition")):
        more = [(f"P{i}", "x", {"doses": "5 uM"}) for i in range(extra)]
        split = split_one(screen([*rows, *more], genes=2), "dose_ood", validation="inner_cv")
        assert split.definition.inner is not None
        assert split.definition.inner.unit == unit


def test_a_context_that_would_have_nothing_left_is_held_out_by_no_inner_fold() -> None:
    rows: list[Any] = [("control", c) for c in "xz" for _ in range(4)]
    rows += [(f"P{i}", "x", {"doses": d}) for i in range(8) for d in ("1 uM", "5 uM", "10 uM")]
    rows += [("P0", "z", {"doses": "5 uM"})]
    ds = screen(rows, genes=2)
    split = split_one(ds, "dose_ood", validation="inner_cv")
    train, masks = masks_of(ds, split)
    assert not any((train["context_id"][held] == "z").any() for _, held in masks)
    assert all((train["context_id"][fit] == "z").any() for fit, _ in masks)


def test_doses_frozen_by_perturbation_are_found_again(tmp_path: Path) -> None:
    ds, folder = laddered(10, "xy"), SplitFolder(tmp_path)
    spec = SplitSpec(kind="dose_ood", folds=2, validation="inner_cv")
    old = freeze(ds, spec, rule=3)
    assert old[0].definition.inner is not None
    assert old[0].definition.inner.unit == "perturbation"
    folder.save(old[0], split_stats(ds, old[0], bounds=False))
    assert [s.hash for s in freeze_beside(folder, ds, spec)] == [s.hash for s in old]
