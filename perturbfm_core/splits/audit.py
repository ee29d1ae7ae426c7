"""The leakage audit: named findings that say how a split, or a run on it, would fool its reader.

A check is one registered function (data set, split) -> findings. Blocking findings refuse a fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import DatasetError, SplitError
from perturbfm_core.registry import Registry
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit


@dataclass(frozen=True)
class Finding:
    """One finding of the audit.

    Attributes
    ----------
    name
        Name of the leak.
    severity
        ``blocking`` refuses a fit, ``warning`` is shown.
    count
        How many rows or conditions are concerned.
    examples
        Some of them.
    message
        What is wrong and what to do.
    """

    name: str
    severity: Literal["blocking", "warning"]
    count: int
    examples: tuple[str, ...]
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON."""
        return {**asdict(self), "examples": list(self.examples)}


Check = Callable[[PerturbDataset, FrozenSplit], Iterable[Finding]]
CHECKS: Registry[Check] = Registry("audit check", SplitError)


def audit(ds: PerturbDataset, frozen: FrozenSplit) -> list[Finding]:
    """Return all findings of all checks for a split on its data."""
    return [finding for _, check in CHECKS.items() for finding in check(ds, frozen)]


def require_clean(ds: PerturbDataset, frozen: FrozenSplit) -> list[Finding]:
    """Return the warnings of the audit, or raise `SplitError` if anything blocks."""
    findings = audit(ds, frozen)
    blocking = [f for f in findings if f.severity == "blocking"]
    if blocking:
        more = f" (and {len(blocking) - 1} more findings)" if len(blocking) > 1 else ""
        msg = f"split {frozen.hash[:12]} leaks: {blocking[0].name}: {blocking[0].message}{more}"
        raise SplitError(msg)
    return findings


def _finding(
    name: str, items: list[str], message: str, severity: Literal["blocking", "warning"] = "blocking"
) -> list[Finding]:
    return [Finding(name, severity, len(items), tuple(items[:5]), message)] if items else []


@CHECKS.register("changed_data")
def changed_data(ds: PerturbDataset, frozen: FrozenSplit) -> list[Finding]:
    """The data are not what the split was frozen on."""
    try:
        frozen.check_dataset(ds)
        ds.verify_content()
        frozen.codes(ds)
    except (SplitError, DatasetError) as error:
        return _finding("changed_data", [ds.name], str(error))
    return []


@CHECKS.register("fold_overlap")
def fold_overlap(ds: PerturbDataset, frozen: FrozenSplit) -> list[Finding]:
    """Rows or conditions that are in two folds."""
    if not isinstance(frozen.split.folds, ConditionFolds):
        return []
    seen: dict[str, str] = {}
    twice = []
    for fold, keys in frozen.split.folds.table.items():
        for key in keys:
            if key in seen:
                twice.append(f"{key} ({seen[key]}, {fold})")
            seen[key] = fold
    return _finding(
        "fold_overlap", twice, f"{len(twice)} conditions are in two folds, e.g. {twice[:1]}; freeze again"
    )


@CHECKS.register("empty_fold")
def empty_fold(ds: PerturbDataset, frozen: FrozenSplit) -> list[Finding]:
    """A fold, or a declared test condition, without cells."""
    codes = _codes(ds, frozen)
    if codes is None:
        return []
    empty = [fold for fold in ("train", "test") if not (codes == schema.FOLDS.index(fold)).any()]
    for policy, fold in ((frozen.split.validation, "val"), (frozen.split.calibration, "calib")):
        if policy == "fold" and not (codes == schema.FOLDS.index(fold)).any():
            empty.append(fold)
    return _finding("empty_fold", empty, f"fold {', '.join(empty)} has no cells; hold out something else")


@CHECKS.register("condition_in_train_and_test")
def condition_in_train_and_test(ds: PerturbDataset, frozen: FrozenSplit) -> list[Finding]:
    """A condition that out-of-distribution test holds and train has seen."""
    codes = _codes(ds, frozen)
    if codes is None or not frozen.split.ood_axes:
        return []
    names = ds.conditions.index.to_numpy()
    fit = set(names[np.unique(ds.condition_codes[_in(codes, ("train", "val"))])])
    test = set(names[np.unique(ds.condition_codes[_in(codes, ("test",))])])
    both = sorted(fit & test)
    return _finding(
        "condition_in_train_and_test",
        both,
        f"{len(both)} test conditions are in train or validation, e.g. {both[:1]}",
    )


@CHECKS.register("held_out_unit_in_train")
def held_out_unit_in_train(ds: PerturbDataset, frozen: FrozenSplit) -> list[Finding]:
    """A held-out context or gene that train has seen, for example through a combination."""
    codes = _codes(ds, frozen)
    axis = frozen.split.ood_axes[:1]
    held = set(frozen.split.params.get("holdout", []))
    if codes is None or not held or axis not in (("context",), ("perturbation",)):
        return []
    fit = ds.conditions.iloc[np.unique(ds.condition_codes[_in(codes, ("train", "val", "calib"))])]
    if axis == ("context",):
        seen = sorted(held & set(fit[schema.CONTEXT_ID].astype(str)))
    else:
        seen = sorted(held & {g for p in fit[schema.PERT_ID].astype(str) for g in pert_genes(p)})
    return _finding(
        "held_out_unit_in_train", seen, f"held-out {axis[0]} {seen[:1]} is in train; freeze again"
    )


def _codes(ds: PerturbDataset, frozen: FrozenSplit) -> Any:
    """Return the fold codes, or None where the data do not fit (which `changed_data` reports)."""
    try:
        return frozen.codes(ds)
    except SplitError:
        return None


def _in(codes: Any, folds: tuple[str, ...]) -> Any:
    return np.isin(codes, [schema.FOLDS.index(f) for f in folds])
