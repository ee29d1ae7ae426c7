"""What a split kind hands over before validation, calibration and inner folds are carved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import SplitSpec
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.errors import SplitError
from perturbfm_core.registry import Registry
from perturbfm_core.schema import Fold, IntArray
from perturbfm_core.splits.split import Axis


@dataclass(frozen=True)
class Draft:
    """One proposed split.

    Attributes
    ----------
    test, unused
        Condition keys.
    params
        Resolved parameters, part of the hash.
    ood_axes
        What is new in test.
    fold, k
        Place in a cross-validation, if any.
    fixed
        Conditions whose fold the user named.
    row_fraction
        For by-row splits: the share of rows to test (then `test` is empty).
    batches
        For by-row splits: the batches whose rows are tested (then `test` is empty).
    spare
        {condition key: unit} of the train conditions that may leave for validation or calibration, each unit
        as a whole; None where all may, by the split's exchangeable unit.
    """

    test: list[str]
    params: dict[str, Any]
    ood_axes: tuple[Axis, ...]
    unused: list[str] = field(default_factory=list)
    fold: int | None = None
    k: int | None = None
    fixed: dict[str, Fold] = field(default_factory=dict)
    row_fraction: float | None = None
    batches: tuple[str, ...] | None = None
    spare: dict[str, str] | None = None


Kind = Callable[[pd.DataFrame, SplitSpec], list[Draft]]
KINDS: Registry[Kind] = Registry("split kind", SplitError)


def take_params(spec: SplitSpec, known: dict[str, Any]) -> dict[str, Any]:
    """Return the spec's parameters over the defaults `known`; an unknown one raises `SplitError`."""
    unknown = sorted(set(spec.params) - set(known))
    if unknown:
        msg = f"split kind {spec.kind!r} has no parameter {unknown[0]!r}; it takes: {', '.join(sorted(known)) or 'none'}"
        raise SplitError(msg)
    return {**known, **spec.params}


def share(params: dict[str, Any], name: str) -> float:
    """Return a parameter that is a share, or raise `SplitError`."""
    value = params[name]
    if not isinstance(value, int | float) or not 0 < value < 1:
        msg = f"{name} must lie between 0 and 1, found {value!r}"
        raise SplitError(msg)
    return float(value)


def must_be_known(wanted: list[str], known: list[str], what: str) -> None:
    """Raise `SplitError` listing the known names if one of `wanted` is not among them."""
    for name in wanted:
        if name not in known:
            shown = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
            msg = f"unknown {what} {name!r}; known: {shown}"
            raise SplitError(msg)


def partition(units: list[str], k: int, seed: int, what: str) -> list[list[str]]:
    """Return `k` random parts of `units`, sizes differing by at most one."""
    if len(units) < k:
        msg = f"{k} folds need at least {k} {what}, found {len(units)}; ask for fewer folds"
        raise SplitError(msg)
    order = np.random.default_rng(seed).permutation(len(units))
    return [sorted(units[i] for i in order[f::k]) for f in range(k)]


def wanted_folds(spec: SplitSpec) -> list[int]:
    """Return which folds of a k-fold split are asked for."""
    if spec.folds is None:
        return []
    if spec.fold is None:
        return list(range(spec.folds))
    if spec.fold >= spec.folds:
        msg = f"fold {spec.fold} of {spec.folds} does not exist; folds count from 0"
        raise SplitError(msg)
    return [spec.fold]


def seen_perts(conditions: pd.DataFrame) -> set[str]:
    """Return the perturbation ids of some conditions."""
    return set(conditions[schema.PERT_ID].astype(str))


def is_combo(conditions: pd.DataFrame) -> IntArray:
    """Return int64 [C]: 1 for conditions with more than one perturbed gene."""
    return np.asarray(
        [len(pert_genes(p)) > 1 for p in conditions[schema.PERT_ID].astype(str)], dtype=np.int64
    )
