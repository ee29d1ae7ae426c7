"""Splits read from a list of conditions per fold: `explicit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.condition import (
    canonical_pert,
    distinct_genes,
    escape,
    pert_genes,
    typed_pert,
)
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import DatasetError, SplitError
from perturbfm_core.schema import Fold
from perturbfm_core.splits.carving import RULE
from perturbfm_core.splits.condition_lists import FOLD_NAMES, WITHIN, check_folds, read_conditions
from perturbfm_core.splits.draft import Draft, Names, is_combo, seen_perts, split_kind, wanted_folds
from perturbfm_core.splits.split import Axis, Unit


class ExplicitParams(Frozen):
    """Parameters of ``explicit``."""

    folds: Annotated[dict[str, Names], CommandOption("--conditions", read=read_conditions)] = Field(
        default_factory=dict,
        description="File of conditions: JSON {fold: [conditions]} or CSV condition,fold.",
    )
    cv_group: str | None = Field(
        None, description="Name that joins explicit splits into one cross-validation."
    )
    unlisted: Literal["train", "unused"] = Field(
        "train", description="Fold of the conditions that the list does not name: train or unused."
    )
    controls: Annotated[Names, CommandOption(hidden=True)] = Field(
        (), description="Labels of control cells in the file that the data set was imported from."
    )


def _controls(ds: PerturbDataset) -> dict[str, Any]:
    """Return the parameters of `ExplicitParams` that follow from the data set."""
    columns = ds.metadata.notes.get("columns")
    labels = columns.get("control_label") if isinstance(columns, dict) else None
    several = labels if isinstance(labels, list) else [labels]
    return {"controls": [x for x in several if isinstance(x, str)]}


@split_kind("explicit", ExplicitParams, facts=_controls)
def explicit(conditions: pd.DataFrame, spec: SplitSpec, params: ExplicitParams) -> list[Draft]:
    """Take the folds as listed: {fold: [condition keys or perturbation ids]}; the others train unless `unlisted` says not.

    A perturbation id stands for all its conditions, ``CONTEXT|PERTURBATION`` for those in one context; as in the lists
    of GEARS, ``A+ctrl`` is ``A``, and the control itself is in no fold. Several lists with the same ``cv_group`` form one
    cross-validation.

    Parameters
    ----------
    conditions
        Condition table [C] of the data set.
    spec
        Split specification: seed and position in a cross-validation.
    params
        Parameters of this kind.

    Raises
    ------
    SplitError
        If a fold or condition is unknown, a condition is listed in two folds, none is tested, or a fold of a
        cross-validation has no name for it.
    """
    if (spec.folds is None) != (spec.fold is None):
        msg = "an explicit split is one fold: give --folds K with --fold I for its place in a cross-validation, or neither"
        raise SplitError(msg)
    if spec.folds is not None and params.cv_group is None:
        msg = "one fold of a cross-validation that is listed needs --cv-group NAME, by which its folds find each other"
        raise SplitError(msg)
    wanted_folds(spec)
    listed = _listed(conditions, params)
    if params.unlisted == "unused":
        listed = {key: listed.get(key, "unused") for key in map(str, conditions.index)}
    test = [key for key in conditions.index if listed.get(key) == "test"]
    if not test:
        msg = "the list of conditions names no test condition; give {'test': [...]}"
        raise SplitError(msg)
    fixed = {key: fold for key, fold in listed.items() if fold not in ("test", "unused")}
    rest = conditions[[listed.get(key, "train") == "train" for key in conditions.index]]
    return [
        Draft(
            test=test,
            unused=[key for key in conditions.index if listed.get(key) == "unused"],
            params={},
            ood_axes=axes_of(conditions.loc[test], rest),
            fixed=fixed,
            fold=spec.fold if spec.folds else None,
            k=spec.folds,
        )
    ]


def unlisted(ds: PerturbDataset, given: Mapping[str, Any]) -> list[str]:
    """Return the conditions that train although a list, which names conditions of train, does not name them.

    Parameters
    ----------
    ds
        The data set.
    given
        Parameters of `explicit` as they are asked for; with `unlisted` among them nothing is left open.
    """
    params = ExplicitParams.model_validate({**given, **_controls(ds)})
    listed = _listed(ds.conditions, params)
    if "unlisted" in given or "train" not in listed.values():
        return []
    return [key for key in map(str, ds.conditions.index) if key not in listed]


def _listed(conditions: pd.DataFrame, params: ExplicitParams) -> dict[str, Fold]:
    """Return {condition key: fold} of the conditions that a list names.

    Raises
    ------
    SplitError
        If a fold or condition is unknown, or a condition is listed in two folds.
    """
    listed: dict[str, Fold] = {}
    by_pert: dict[str, list[str]] = {}
    by_context: dict[str, dict[str, list[str]]] = {}
    contexts, perts = (conditions[c].astype(str) for c in (schema.CONTEXT_ID, schema.PERT_ID))
    for key, context, pert in zip(conditions.index, contexts, perts, strict=True):
        by_pert.setdefault(pert, []).append(str(key))
        by_context.setdefault(escape(context), {}).setdefault(pert, []).append(str(key))
    known = set(conditions.index)
    folds = _folds(params.folds, by_context)
    check_folds((written for written, names in folds.items() if names), "the list of conditions")
    for written, names in folds.items():
        fold = FOLD_NAMES.get(written.strip().lower()) if written.strip() else None
        if fold is None:
            msg = f"unknown fold {written!r} in the list of conditions; known: {', '.join(schema.FOLDS)}"
            raise SplitError(msg)
        for name in names:
            keys = [name] if name in known else by_pert.get(name)
            if keys is None:
                context, bar, rest = name.partition("|")
                pert = _perturbation(rest if bar else name, params.controls, by_pert)
                if pert == schema.CONTROL:
                    continue
                keys = (by_context.get(context, {}) if bar else by_pert).get(pert)
            if not keys:
                msg = (
                    f"condition {name!r} of fold {fold!r} is not in the data set; give condition keys, CONTEXT|PERTURBATION, "
                    f"or perturbation ids (contexts are {', '.join(map(repr, sorted(by_context)[:3]))})"
                )
                raise SplitError(msg)
            for key in keys:
                if listed.get(key, fold) != fold:
                    msg = f"condition {key!r} is listed in folds {listed[key]!r} and {fold!r}; list it once"
                    raise SplitError(msg)
                listed[key] = fold
    return listed


def _folds(given: Mapping[str, Names], contexts: Mapping[str, Any]) -> dict[str, Names]:
    """Return the lists by fold, without the name of a table around them, which no context may have."""
    out = {}
    for written, names in given.items():
        table, within, fold = written.rpartition(WITHIN)
        if within and escape(table) in contexts:
            msg = (
                f"the list of conditions holds its folds within {table!r}, a context: write conditions as "
                f"{table + '|PERTURBATION'!r} and leave that level out, else give it another name"
            )
            raise SplitError(msg)
        out[fold] = names
    return out


def _perturbation(name: str, controls: Names, known: Mapping[str, list[str]]) -> str:
    """Return the perturbation id of a name as another tool writes it, ``control`` for control cells."""
    # "ctrl" is the control of GEARS, whatever the file called its own.
    labels = {schema.CONTROL, *controls, *({"ctrl"} - set(known))}
    try:
        return canonical_pert(typed_pert(name, known), control=labels)[0]
    except DatasetError:
        return name


def axes_of(test: pd.DataFrame, train: pd.DataFrame, rule: int = RULE) -> tuple[Axis, ...]:
    """Return what is unseen in test: context and perturbation together where every condition is new in both.

    Parameters
    ----------
    test, train
        Conditions of either.
    rule
        `RULE`, or one of `EARLIER_RULES`, the fourth of which knew one axis.
    """
    axis = axis_of(test, train)
    if rule <= 4:
        return (axis,)
    known = set(distinct_genes(seen_perts(train)))
    if axis == "context" and all(set(pert_genes(p)) - known for p in seen_perts(test)):
        return ("context", "perturbation")
    # Combinations that train has in other contexts are known themselves.
    return ("pair",) if axis == "combo" and seen_perts(test) <= seen_perts(train) else (axis,)


def axis_of(test: pd.DataFrame, train: pd.DataFrame) -> Unit:
    """Return what is unseen in test: context, combo (only combinations are tested), perturbation or pair."""
    if not set(test[schema.CONTEXT_ID].astype(str)) & set(train[schema.CONTEXT_ID].astype(str)):
        return "context"
    if is_combo(test).all():
        return "combo"
    if seen_perts(test) - seen_perts(train):
        return "perturbation"
    return "pair"
