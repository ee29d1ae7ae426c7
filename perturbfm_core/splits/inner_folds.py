"""Inner folds of a split: groups within the training conditions, held out as its test fold is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.splits.inner_masks import crossed_units, inner_masks
from perturbfm_core.splits.kinds.covariate import covariate_values
from perturbfm_core.splits.split import (
    CROSSED,
    InnerFolds,
    InnerUnit,
    Unit,
    units_of,
)

INNER_FOLDS = 5
# Held-out conditions that inner folds of contexts and perturbations should have together.
MIN_CROSSED = 30


def pairs_of(conditions: pd.DataFrame, covariate: str) -> dict[str, list[str]]:
    """Return {first condition: all conditions} of each pair of a perturbation and a value of a covariate.

    Parameters
    ----------
    conditions
        Condition table [C].
    covariate
        Name of the covariate, as of ``covariate_transfer``.
    """
    found: dict[tuple[str, str], list[str]] = {}
    values = dict(zip(conditions.index, covariate_values(conditions, covariate), strict=True))
    perts = dict(zip(conditions.index, conditions[schema.PERT_ID].astype(str), strict=True))
    for key in sorted(map(str, conditions.index)):
        found.setdefault((perts[key], values[key]), []).append(key)
    return {keys[0]: keys for keys in found.values()}


def inner_folds(
    train: pd.DataFrame, unit: InnerUnit, rng: np.random.Generator, covariate: str | None = None
) -> InnerFolds | None:
    """Return grouped folds within the training conditions.

    Parameters
    ----------
    train
        Condition table of train.
    unit
        What is held out together; if train has one such unit only, conditions are grouped by perturbation.
    rng
        Source of the random assignment.
    covariate
        The covariate of pairs, whose conditions stay together; without it each condition is by itself.

    Returns
    -------
    At most `INNER_FOLDS` folds, more where contexts and perturbations are held out at once; None if train has a single
    perturbation.
    """
    if unit == CROSSED:
        if (crossed := _crossed_folds(train, rng)) is not None:
            return crossed
        unit = "perturbation"
    ladder: list[Unit] = [unit] if unit == "perturbation" else [unit, "perturbation"]
    for candidate in ladder:
        groups = (
            pairs_of(train, covariate)
            if candidate == "pair" and covariate is not None
            else {u: [u] for us in units_of(train, candidate) for u in us}
        )
        names = sorted(groups)
        if len(names) >= 2:
            k = min(INNER_FOLDS, len(names))
            order = rng.permutation(len(names))
            folds = {member: int(i % k) for i, j in enumerate(order) for member in groups[names[j]]}
            return InnerFolds(unit=candidate, k=k, folds=dict(sorted(folds.items())))
    return None


def level_folds(
    train: pd.DataFrame,
    next_level: Mapping[str, str],
    rng: np.random.Generator,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> InnerFolds | None:
    """Return folds that hold out the next dose or time of some perturbations, as test has the highest (or a middle one).

    All other conditions are fitted on in every fold. A condition whose context would have no other is held out by none.

    Parameters
    ----------
    train
        Condition table of train.
    next_level
        {condition: perturbation} of conditions at the level that would be tested next.
    rng
        Source of the random assignment.
    beside
        {condition: perturbation} of conditions that are not fitted on while that level is held out.

    Returns
    -------
    At most `INNER_FOLDS` folds of whole perturbations, or of single conditions if all are of one; None if there
    are not two.
    """
    contexts = dict(zip(map(str, train.index), train[schema.CONTEXT_ID].astype(str), strict=True))
    stay = {context for key, context in contexts.items() if key not in next_level and key not in beside}
    held = {key: pert for key, pert in next_level.items() if contexts.get(key) in stay}
    if len(set(held.values())) == 1:
        held = {key: key for key in held}
    names = sorted(set(held.values()))
    if len(names) < 2:
        return None
    k = min(INNER_FOLDS, len(names))
    fold_of = {names[j]: int(i % k) for i, j in enumerate(rng.permutation(len(names)))}
    also = {key: pert for key, pert in beside.items() if key in contexts and pert in fold_of}
    folds = {key: fold_of[unit] for key, unit in sorted({**held, **also}.items())}
    return InnerFolds(unit="condition", k=k, folds=folds)


def _crossed_folds(train: pd.DataFrame, rng: np.random.Generator) -> InnerFolds | None:
    """Return folds that hold out contexts and perturbations at once, None where there are too few of either.

    Each fold holds out one part of both and fits on conditions with neither. There are as many folds as parts, and further
    ones, with the parts paired in another way, until `MIN_CROSSED` conditions are held out or every pair of parts was.
    """
    units = crossed_units(train)
    names = [sorted({c for c, _ in units}), sorted({g for _, genes in units for g in genes})]
    parts = [min(INNER_FOLDS, len(axis)) for axis in names]
    if min(parts) < 2:
        return None
    folds = {
        axis[j]: int(i % n)
        for axis, n in zip(names, parts, strict=True)
        for i, j in enumerate(rng.permutation(len(axis)))
    }
    n_contexts, n_perts = parts
    k = n_perts
    found = InnerFolds(unit=CROSSED, k=k, folds=dict(sorted(folds.items())))
    while k < n_contexts * n_perts and sum(held.sum() for _, held in inner_masks(found, train)) < MIN_CROSSED:
        k += n_perts
        found = found.model_copy(update={"k": k})
    return found if inner_masks(found, train) else None
