"""Splits given from outside, condition by condition."""

from __future__ import annotations

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import SplitSpec
from perturbfm_core.data.condition import canonical_pert
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import Fold
from perturbfm_core.splits.draft import KINDS, Draft, is_combo, seen_perts, take_params, wanted_folds
from perturbfm_core.splits.split import Unit


@KINDS.register("explicit")
def explicit(conditions: pd.DataFrame, spec: SplitSpec) -> list[Draft]:
    """Take the folds as listed: {fold: [condition keys or perturbation ids]}; unlisted conditions train.

    A perturbation id stands for all its conditions. With ``cv_group`` several lists form one
    cross-validation.
    """
    params = take_params(spec, {"folds": {}, "cv_group": None})
    if (spec.folds is None) != (spec.fold is None):
        msg = "an explicit split is one fold: give --folds K with --fold I for its place in a cross-validation, or neither"
        raise SplitError(msg)
    wanted_folds(spec)
    listed: dict[str, Fold] = {}
    by_pert: dict[str, list[str]] = {}
    for key, pert in zip(conditions.index, conditions[schema.PERT_ID].astype(str), strict=True):
        by_pert.setdefault(pert, []).append(str(key))
    known = set(conditions.index)
    for fold, names in params["folds"].items():
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
    """Return what is new in test: contexts, combinations only, else perturbations."""
    if not set(test[schema.CONTEXT_ID].astype(str)) & set(train[schema.CONTEXT_ID].astype(str)):
        return "context"
    if is_combo(test).all():
        return "combo"
    if seen_perts(test) - seen_perts(train):
        return "perturbation"
    return "pair"
