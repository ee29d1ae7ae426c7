"""Splits that hold out pairs of perturbation and covariate value, each seen in other pairs."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.condition import parse_covariates
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import Draft, Names, must_be_known, share, split_kind, wanted_folds


def covariate_values(conditions: pd.DataFrame, name: str) -> list[str]:
    """Return each condition's value of a covariate: ``context``, ``dose``, ``modality`` or a further one."""
    columns = {"context": schema.CONTEXT_ID, "dose": schema.DOSES, "modality": schema.MODALITY}
    if name in columns:
        return [str(x) for x in conditions[columns[name]].astype(str)]
    parsed = [parse_covariates(c) for c in conditions[schema.COVARIATES].astype(str)]
    known = sorted({key for p in parsed for key in p})
    must_be_known([name], [*columns, *known], "covariate")
    return [p.get(name, "") for p in parsed]


class CovariateTransferParams(Frozen):
    """Parameters of ``covariate_transfer``."""

    covariate: Annotated[str, CommandOption("--covariate-name", stated=True)] = Field(
        "context", description="Covariate: context, dose, modality, time, ..."
    )
    perturbations: Annotated[Names, CommandOption("--holdout-perturbation")] = Field(
        (), description="Gene or drug to hold out."
    )
    values: Annotated[Names, CommandOption("--holdout-covariate")] = Field(
        (), description="Covariate value to hold out."
    )
    test_frac: float = Field(0.2, description="Share to test.")


@split_kind("covariate_transfer", CovariateTransferParams)
def covariate_transfer(
    conditions: pd.DataFrame, spec: SplitSpec, params: CovariateTransferParams
) -> list[Draft]:
    """Hold out (perturbation, covariate value) pairs whose two members both occur in train, in other pairs.

    With both ``perturbations`` and ``values``, all of their pairs are held out. Otherwise ``test_frac`` of
    the pairs with the given perturbations or values are drawn. With k folds, the folds partition the pairs.

    Parameters
    ----------
    conditions
        Condition table [C] of the data set.
    spec
        Split specification: seed and number of folds.
    params
        Parameters of this kind.

    Raises
    ------
    SplitError
        If there are no or too few such pairs, or holding a pair out would remove one of its members from
        train.
    """
    perts = [str(p) for p in conditions[schema.PERT_ID].astype(str)]
    values = covariate_values(conditions, params.covariate)
    must_be_known(list(params.perturbations), sorted(set(perts)), "perturbation")
    must_be_known(list(params.values), sorted(set(values)), f"value of {params.covariate}")
    pairs = list(zip(perts, values, strict=True))
    pool = sorted(
        pair
        for pair in set(pairs)
        if (not params.perturbations or pair[0] in params.perturbations)
        and (not params.values or pair[1] in params.values)
    )
    if not pool:
        msg = f"no perturbation asked for occurs with a {params.covariate} asked for; choose other pairs"
        raise SplitError(msg)
    if spec.folds is not None and len(pool) < spec.folds:
        msg = f"{spec.folds} folds need at least {spec.folds} pairs, found {len(pool)}; ask for fewer folds"
        raise SplitError(msg)
    rng = np.random.default_rng(spec.seed)
    pool = [pool[i] for i in rng.permutation(len(pool))]
    named = bool(params.perturbations) and bool(params.values)
    if spec.folds is not None:
        n, chosen = len(pool), [pool[f :: spec.folds] for f in range(spec.folds)]
        wanted = wanted_folds(spec)
    else:
        n = len(pool) if named else max(1, round(share(params.test_frac, "test_frac") * len(pool)))
        chosen, wanted = [pool], [0]
    drafts = []
    for f in wanted:
        held = _greedy(chosen[f], pairs, n)
        if not held or (named and len(held) < len(chosen[f])):
            refused = [p for p in chosen[f] if p not in held]
            pert, value = refused[0]
            msg = (
                f"pair ({pert}, {value}) cannot be held out: train would not see {pert!r} with another "
                f"{params.covariate} and {value!r} with another perturbation; choose other pairs"
            )
            raise SplitError(msg)
        keys = conditions.index[[pair in held for pair in pairs]].tolist()
        resolved = {"covariate": params.covariate, "pairs": [list(p) for p in sorted(held)]}
        drafts.append(
            Draft(
                test=keys,
                params=resolved,
                ood_axes=("pair",),
                fold=f if spec.folds else None,
                k=spec.folds,
            )
        )
    return drafts


def _greedy(
    candidates: list[tuple[str, str]], pairs: list[tuple[str, str]], limit: int
) -> set[tuple[str, str]]:
    """Return up to `limit` candidates, taken in order if both members keep another occurrence in train."""
    distinct = set(pairs)
    by_pert = Counter(p for p, _ in distinct)
    by_value = Counter(v for _, v in distinct)
    held: set[tuple[str, str]] = set()
    for pert, value in candidates:
        if len(held) == limit:
            break
        if by_pert[pert] > 1 and by_value[value] > 1:
            held.add((pert, value))
            by_pert[pert] -= 1
            by_value[value] -= 1
    return held
