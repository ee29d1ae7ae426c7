"""Registry of split kinds, and the draft splits that they propose (test conditions only)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Annotated, Any, TypeVar, get_args

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, ValidationError

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import Frozen, canonical_json, one_line
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import ConfigError, SplitError, named_fault
from perturbfm_core.registry.members import Discovery, Registry
from perturbfm_core.schema import Fold, IntArray
from perturbfm_core.splits.split import Axis


@dataclass(frozen=True)
class Draft:
    """One proposed split, before validation, calibration and inner folds are chosen.

    Attributes
    ----------
    test, unused
        Condition keys.
    params
        Resolved parameters, part of the split's hash.
    ood_axes
        What is unseen in the test fold.
    fold, k
        Position in a cross-validation, if any.
    fixed
        {condition key: fold} of conditions whose fold was given by the user.
    row_fraction
        For by-row splits: the share of rows to test (then `test` is empty).
    batches
        For by-row splits: the batches whose rows are tested (then `test` is empty).
    spare
        {condition key: unit} of the training conditions that may be moved to validation or calibration, each
        unit as a whole; None if all may, by the split's exchangeable unit.
    beside
        {condition key: unit} of training conditions that may not stay in train without their unit, nor be tested with it.
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
    beside: dict[str, str] = field(default_factory=dict)


P = TypeVar("P", bound=Frozen)
DraftFunction = Callable[["pd.DataFrame", SplitSpec, P], list[Draft]]
Facts = Callable[[PerturbDataset], dict[str, Any]]
# A name from the command line or a YAML file, where a name such as 7 is parsed as a number.
Name = Annotated[str, BeforeValidator(str)]
Names = tuple[Name, ...]


@dataclass(frozen=True)
class SplitKind:
    """One kind of split.

    Attributes
    ----------
    name
        Name in ``--spec`` and suites.
    draft
        (conditions, spec, params) -> proposed splits, several for k folds.
    params
        Type of its parameters; the command line has an option for each.
    facts
        Function that returns parameters derived from the rows of a data set, None if there are none.
    """

    name: str
    draft: DraftFunction[Any]
    params: type[Frozen]
    facts: Facts | None = None

    def __post_init__(self) -> None:
        if self.facts is not None:
            # So that what a plug-in raises or returns is refused under the name of the kind.
            object.__setattr__(self, "facts", _checked_facts(self.name, self.facts))

    @property
    def description(self) -> str:
        """Return the first line of the drafting function's docstring."""
        return (self.draft.__doc__ or "").strip().split("\n")[0]

    def drafts(self, ds: PerturbDataset, spec: SplitSpec) -> list[Draft]:
        """Return the splits that this kind proposes for a specification.

        Parameters
        ----------
        ds
            The data set.
        spec
            The specification; its parameters are validated here.

        Raises
        ------
        SplitError
            If a parameter is unknown or invalid, nothing can be held out, or a plug-in fails or proposes no drafts of
            conditions of the data set.
        """
        unknown = sorted(set(spec.params) - set(self.params.model_fields))
        if unknown:
            known = ", ".join(sorted(self.params.model_fields)) or "none"
            msg = f"split kind {self.name!r} has no parameter {unknown[0]!r}; it takes: {known}"
            raise SplitError(msg)
        try:
            params = self.params.model_validate(spec.params)
        except ValidationError as error:
            msg = f"parameters of split kind {self.name!r}: {one_line(error)}"
            raise SplitError(msg) from error
        with named_fault(f"split kind {self.name!r}", self.draft.__module__, SplitError):
            drafts = self.draft(ds.conditions, spec, params)
        _check_drafts(f"split kind {self.name!r}", drafts, set(ds.conditions.index))
        return drafts


def _checked_facts(name: str, function: Facts) -> Facts:
    """Return the facts of a split kind, which refuses under the kind's name what fails or is no dictionary."""

    @wraps(function)
    def facts(ds: PerturbDataset) -> dict[str, Any]:
        with named_fault(f"split kind {name!r}, facts", function.__module__, SplitError):
            found: Any = function(ds)
        if not isinstance(found, dict):
            msg = f"split kind {name!r}: facts must return a dictionary of parameters, found {type(found).__name__}"
            raise SplitError(msg)
        return found

    return facts


def _check_drafts(where: str, given: Any, known: set[str]) -> None:
    """Raise `SplitError` if a split kind did not return a list of drafts of known conditions.

    Parameters
    ----------
    where
        The kind, for the message.
    given
        What it returned.
    known
        Condition keys of the data set.
    """
    if not isinstance(given, list) or not all(isinstance(draft, Draft) for draft in given):
        other = (
            next((d for d in given if not isinstance(d, Draft)), None) if isinstance(given, list) else given
        )
        msg = f"{where} must return a list of Draft, found {type(other).__name__}"
        msg += " among them" if isinstance(given, list) else ""
        raise SplitError(msg)
    if not given:
        msg = f"{where} proposes no split of these data; raise a SplitError that says what is missing"
        raise SplitError(msg)
    for draft in given:
        for name in ("test", "unused"):
            keys: Any = getattr(draft, name)
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                msg = f"{where}: Draft.{name} must be a list of condition keys, found {_shown(keys)}"
                raise SplitError(msg)
            if absent := [key for key in keys if key not in known]:
                msg = (
                    f"{where}: Draft.{name} names {len(absent)} conditions that the data set does not have, such as "
                    f"{absent[0]!r}; its keys are those of the index of the condition table"
                )
                raise SplitError(msg)
        axes: Any = draft.ood_axes
        if not isinstance(axes, tuple) or any(axis not in get_args(Axis) for axis in axes):
            msg = f"{where}: Draft.ood_axes must be a tuple of {', '.join(get_args(Axis))}, found {axes!r}"
            raise SplitError(msg)
        try:
            canonical_json(draft.params)
        except ConfigError as error:
            msg = f"{where}: Draft.params must be plain JSON: {error}"
            raise SplitError(msg) from error


def _shown(keys: Any) -> str:
    """Return what to say of keys that are no list of text."""
    if isinstance(keys, list):
        return f"{next(k for k in keys if not isinstance(k, str))!r} among them"
    return type(keys).__name__


KINDS: Registry[SplitKind] = Registry(
    "split kind", SplitError, Discovery("perturbfm_core.splits.kinds", None, "perturbfm.split_kinds")
)


def split_kind(
    name: str, params: type[P], facts: Facts | None = None
) -> Callable[[DraftFunction[P]], DraftFunction[P]]:
    """Register the decorated function as a split kind.

    Parameters
    ----------
    name
        Name in ``--spec`` and suites.
    params
        Type of its parameters, each with a default and a description.
    facts
        Function that returns parameters derived from the rows of a data set.

    Raises
    ------
    SplitError
        If the function has no docstring, or a parameter has no default.
    """

    def register(draft: DraftFunction[P]) -> DraftFunction[P]:
        kind = SplitKind(name, draft, params, facts)
        if not kind.description:
            msg = f"split kind {name!r} has no docstring to describe it"
            raise SplitError(msg)
        needed = [k for k, f in params.model_fields.items() if f.is_required()]
        if needed:
            msg = f"split kind {name!r}: parameters {', '.join(needed)} have no default; every parameter needs one"
            raise SplitError(msg)
        KINDS.add(name, kind)
        return draft

    return register


def share(value: float, name: str) -> float:
    """Return a parameter that must be a share between 0 and 1 (exclusive); `name` is for the message.

    Raises
    ------
    SplitError
        If it is not between 0 and 1.
    """
    if not 0 < value < 1:
        msg = f"{name} must lie between 0 and 1, found {value!r}"
        raise SplitError(msg)
    return float(value)


def must_be_known(wanted: Sequence[str], known: list[str], what: str) -> None:
    """Check that names occur in the data set.

    Parameters
    ----------
    wanted
        Names to check.
    known
        Names that occur.
    what
        Noun for the message, e.g. "context".

    Raises
    ------
    SplitError
        If one of `wanted` is not in `known`; the message lists the known names.
    """
    for name in wanted:
        if name not in known:
            shown = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
            msg = f"unknown {what} {name!r}; known: {shown}"
            raise SplitError(msg)


def partition(units: list[str], k: int, seed: int, what: str) -> list[list[str]]:
    """Return `k` random parts of `units`, whose sizes differ by at most one.

    Parameters
    ----------
    units
        Names to partition.
    k
        Number of parts.
    seed
        Seed of the random order.
    what
        Plural noun for the message, e.g. "contexts".

    Raises
    ------
    SplitError
        If there are fewer units than parts.
    """
    if len(units) < k:
        msg = f"{k} folds need at least {k} {what}, found {len(units)}; ask for fewer folds"
        raise SplitError(msg)
    order = np.random.default_rng(seed).permutation(len(units))
    return [sorted(units[i] for i in order[f::k]) for f in range(k)]


def wanted_folds(spec: SplitSpec) -> list[int]:
    """Return the indices of the requested folds of a k-fold split; empty if the split has no folds.

    Raises
    ------
    SplitError
        If the requested fold does not exist.
    """
    if spec.folds is None:
        return []
    if spec.fold is None:
        return list(range(spec.folds))
    if spec.fold >= spec.folds:
        msg = f"fold {spec.fold} of {spec.folds} does not exist; folds count from 0"
        raise SplitError(msg)
    return [spec.fold]


def seen_perts(conditions: pd.DataFrame) -> set[str]:
    """Return the perturbation ids of conditions."""
    return set(conditions[schema.PERT_ID].astype(str))


def is_combo(conditions: pd.DataFrame) -> IntArray:
    """Return int64 [C]: 1 for conditions with more than one perturbed gene."""
    return np.asarray(
        [len(pert_genes(p)) > 1 for p in conditions[schema.PERT_ID].astype(str)], dtype=np.int64
    )
