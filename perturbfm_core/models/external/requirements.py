"""Requirements of external models on the conditions of a split, with a count and an example where some are not met."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.splits.conditions import SplitConditions

# From (context, perturbation, doses) to what its prediction lacks, None if it lacks nothing.
Lacks = Callable[[str, str, str], str | None]


def unmet(conditions: SplitConditions, lacks: Lacks) -> str | None:
    """Return why some test conditions cannot be predicted: how many, why, and an example; None if all can."""
    reasons: dict[str, list[str]] = {}
    columns = (schema.CONTEXT_ID, schema.PERT_ID, schema.DOSES)
    for key, *fields in conditions.test[list(columns)].itertuples(name=None):
        if (reason := lacks(*map(str, fields))) is not None:
            reasons.setdefault(reason, []).append(str(key))
    if not reasons:
        return None
    n = len(conditions.test)
    parts = [
        f"{reason} ({len(keys)} of {n} test conditions, e.g. {keys[0]})" for reason, keys in reasons.items()
    ]
    return "needs " + "; ".join(parts)


def perturbations(conditions: SplitConditions) -> frozenset[str]:
    """Return the perturbations of the train conditions."""
    return frozenset(conditions.train[schema.PERT_ID])


def genes_by_context(conditions: SplitConditions) -> dict[str, set[str]]:
    """Return {context: genes that its train conditions perturb}."""
    out: dict[str, set[str]] = {}
    for context, pert in conditions.train[[schema.CONTEXT_ID, schema.PERT_ID]].itertuples(
        index=False, name=None
    ):
        out.setdefault(context, set()).update(pert_genes(pert))
    return out


# Column of a condition that these models do not read -> what they need of it.
_UNREAD = {
    schema.DOSES: "one dose of each perturbation, it reads none",
    schema.MODALITY: "one modality of each perturbation, it reads none",
    schema.COVARIATES: "one time, or other covariate, of each perturbation, it reads none",
}


def several_forms(conditions: SplitConditions) -> Lacks:
    """Return the requirement of a model that knows perturbations by name: one dose, modality and covariates of each."""
    both = pd.concat([conditions.train, conditions.test])
    lacking: dict[str, str] = {}
    for column, text in _UNREAD.items():
        pairs = both[[schema.PERT_ID, column]].drop_duplicates()
        for pert in pairs.loc[pairs[schema.PERT_ID].duplicated(), schema.PERT_ID]:
            lacking.setdefault(str(pert), text)
    return lambda _context, pert, _dose: lacking.get(pert)
