"""Audit checks of folds: changed data, overlapping or empty folds, replicates in several folds."""

from __future__ import annotations

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import DatasetError, SplitError
from perturbfm_core.splits.audit.core import (
    CHECKS,
    Finding,
    NotApplicable,
    conditions_in,
    finding,
    fold_codes,
    in_folds,
    same_condition_meant,
)
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit


@CHECKS.register("changed_data", order=10)
def changed_data(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find data that differ from those the split was frozen on."""
    try:
        split.check_dataset(ds)
        ds.verify_content()
        split.codes(ds)
    except (SplitError, DatasetError) as error:
        return finding("changed_data", [ds.name], str(error))
    return []


@CHECKS.register("fold_overlap", order=10)
def fold_overlap(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find conditions in two folds, perturbed rows in no valid fold, and control rows in a fold."""
    if not isinstance(split.definition.folds, ConditionFolds):
        codes = fold_codes(ds, split)
        treated = ds.condition_codes >= 0
        wrong = np.flatnonzero(((codes >= 0) != treated) | (codes >= len(schema.FOLDS)))
        return finding(
            "fold_overlap",
            ds.row_ids[wrong].tolist(),
            f"{len(wrong)} rows are not in one fold each: control rows belong to none, others to exactly one; "
            "freeze again",
        )
    seen: dict[str, str] = {}
    twice = []
    for fold, keys in split.definition.folds.table.items():
        for key in keys:
            if key in seen:
                twice.append(f"{key} ({seen[key]}, {fold})")
            seen[key] = fold
    return finding(
        "fold_overlap", twice, f"{len(twice)} conditions are in two folds, e.g. {twice[:1]}; freeze again"
    )


@CHECKS.register("empty_fold", order=10)
def empty_fold(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find folds and declared conditions without rows."""
    out: list[Finding] = []
    if isinstance(split.definition.folds, ConditionFolds):
        known = set(ds.conditions.index)
        bare = [key for keys in split.definition.folds.table.values() for key in keys if key not in known]
        out += finding(
            "empty_fold",
            bare,
            f"{len(bare)} declared conditions have no cells, e.g. {bare[:1]}; freeze again",
        )
        if bare:
            return out
    codes = fold_codes(ds, split)
    policies = {"val": split.definition.validation, "calib": split.definition.calibration}
    wanted = ["train", "test", *(fold for fold, policy in policies.items() if policy == "fold")]
    empty = [fold for fold in wanted if not in_folds(codes, fold).any()]
    return finding("empty_fold", empty, f"fold {', '.join(empty)} has no cells; hold out something else")


@CHECKS.register("condition_in_train_and_test", order=10)
def condition_in_train_and_test(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find test conditions of an out-of-distribution split that are also in train or validation."""
    return _shared(ds, split, ("train", "val"), "condition_in_train_and_test", "train or validation")


@CHECKS.register("calibration_in_test", order=10)
def calibration_in_test(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find test conditions of an out-of-distribution split that are also in calibration."""
    return _shared(ds, split, ("calib",), "calibration_in_test", "calibration")


def _shared(
    ds: PerturbDataset, split: FrozenSplit, folds: tuple[str, ...], name: str, where: str
) -> list[Finding]:
    codes = fold_codes(ds, split)
    if same_condition_meant(split):
        msg = "the split holds out rows of conditions that train may have"
        raise NotApplicable(msg)
    test = set(conditions_in(ds, codes, "test").index)
    both = sorted(test & set(conditions_in(ds, codes, *folds).index))
    return finding(name, both, f"{len(both)} test conditions are in {where}, e.g. {both[:1]}; freeze again")


@CHECKS.register("replicates_in_two_folds", order=10)
def replicates_in_two_folds(ds: PerturbDataset, split: FrozenSplit) -> list[Finding]:
    """Find conditions of condition-level data with replicates in more than one fold.

    Raises
    ------
    NotApplicable
        If the data are single cells.
    """
    if ds.metadata.level != "condition":
        msg = "the data set has cells, not replicates"
        raise NotApplicable(msg)
    codes = fold_codes(ds, split)
    used = in_folds(codes, "train", "val", "calib", "test")
    pairs = np.unique(np.stack([ds.condition_codes[used], codes[used].astype(np.int64)]), axis=1)
    conditions, counts = np.unique(pairs[0], return_counts=True)
    torn = ds.conditions.index[conditions[counts > 1]].tolist()
    return finding(
        "replicates_in_two_folds",
        torn,
        f"replicates of {len(torn)} conditions are in two folds, e.g. {torn[:1]}; keep a condition's rows together",
    )
