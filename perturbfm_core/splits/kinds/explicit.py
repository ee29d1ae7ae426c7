"""Splits read from a list of conditions per fold: `explicit`."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.condition import canonical_pert
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import Fold
from perturbfm_core.splits.draft import Draft, Names, is_combo, seen_perts, split_kind, wanted_folds
from perturbfm_core.splits.split import Unit


def read_conditions(path: Path) -> dict[str, list[str]]:
    """Read {fold: [conditions]} from JSON, or from a CSV with the columns condition and fold.

    Raises
    ------
    SplitError
        If the file cannot be read or has another form.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read ({error})"
        raise SplitError(msg) from error
    if path.suffix.lower() == ".json":
        try:
            loaded = json.loads(text)
        except json.JSONDecodeError as error:
            msg = f"{path} is not valid JSON ({error})"
            raise SplitError(msg) from error
        if not isinstance(loaded, dict) or not all(
            isinstance(v, list) and all(isinstance(x, str) for x in v) for v in loaded.values()
        ):
            msg = f"{path} must hold {{fold: [conditions]}}"
            raise SplitError(msg)
        return {str(k): list(v) for k, v in loaded.items()}
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or not {"condition", "fold"} <= set(rows[0]):
        msg = f"{path} must be JSON (.json) or a CSV with the columns condition and fold"
        raise SplitError(msg)
    out: dict[str, list[str]] = {}
    for row in rows:
        out.setdefault(row["fold"], []).append(row["condition"])
    return out


class ExplicitParams(Frozen):
    """Parameters of ``explicit``."""

    folds: Annotated[dict[str, Names], CommandOption("--conditions", read=read_conditions)] = Field(
        default_factory=dict,
        description="File of conditions: JSON {fold: [conditions]} or CSV condition,fold.",
    )
    cv_group: str | None = Field(
        None, description="Name that joins explicit splits into one cross-validation."
    )


@split_kind("explicit", ExplicitParams)
def explicit(conditions: pd.DataFrame, spec: SplitSpec, params: ExplicitParams) -> list[Draft]:
    """Take the folds as listed: {fold: [condition keys or perturbation ids]}; unlisted conditions train.

    A perturbation id stands for all its conditions. Several lists with the same ``cv_group`` form one
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
        If a fold or condition is unknown, a condition is listed in two folds, or none is tested.
    """
    if (spec.folds is None) != (spec.fold is None):
        msg = "an explicit split is one fold: give --folds K with --fold I for its place in a cross-validation, or neither"
        raise SplitError(msg)
    wanted_folds(spec)
    listed: dict[str, Fold] = {}
    by_pert: dict[str, list[str]] = {}
    for key, pert in zip(conditions.index, conditions[schema.PERT_ID].astype(str), strict=True):
        by_pert.setdefault(pert, []).append(str(key))
    known = set(conditions.index)
    for fold, names in params.folds.items():
        if fold not in schema.FOLDS:
            msg = f"unknown fold {fold!r} in the list of conditions; known: {', '.join(schema.FOLDS)}"
            raise SplitError(msg)
        for name in names:
            if name in known:
                keys = [name]
            else:
                keys = by_pert.get(name) or by_pert.get(canonical_pert(str(name), control=None)[0], [])
            if not keys:
                msg = f"condition {name!r} of fold {fold!r} is not in the data set; give condition keys or perturbation ids"
                raise SplitError(msg)
            for key in keys:
                if listed.get(key, fold) != fold:
                    msg = f"condition {key!r} is listed in folds {listed[key]!r} and {fold!r}; list it once"
                    raise SplitError(msg)
                listed[key] = fold
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
            ood_axes=(axis_of(conditions.loc[test], rest),),
            fixed=fixed,
            fold=spec.fold if spec.folds else None,
            k=spec.folds,
        )
    ]


def axis_of(test: pd.DataFrame, train: pd.DataFrame) -> Unit:
    """Return what is unseen in test: context, combo (only combinations are tested), perturbation or pair."""
    if not set(test[schema.CONTEXT_ID].astype(str)) & set(train[schema.CONTEXT_ID].astype(str)):
        return "context"
    if is_combo(test).all():
        return "combo"
    if seen_perts(test) - seen_perts(train):
        return "perturbation"
    return "pair"
