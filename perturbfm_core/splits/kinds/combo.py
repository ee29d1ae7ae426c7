"""Splits with unseen combinations of perturbations: `combo_ood`."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.condition import canonical_pert, typed_pert
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import (
    Draft,
    Names,
    is_combo,
    must_be_known,
    partition,
    split_kind,
    wanted_folds,
)


class ComboParams(Frozen):
    """Parameters of ``combo_ood``."""

    holdout: Annotated[Names, CommandOption("--holdout-combo")] = Field(
        (), description="Combination A+B to hold out."
    )


@split_kind("combo_ood", ComboParams)
def combo_ood(conditions: pd.DataFrame, spec: SplitSpec, params: ComboParams) -> list[Draft]:
    """Hold out combinations (``holdout``), or partition them into k folds; all singles stay in train.

    The number of a combination's parts that train has as single perturbations (seen-0, seen-1, seen-2) is
    recorded for each test condition.

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
        If the data set has no combinations, or none, too few or unknown ones are to be held out.
    """
    perts = conditions[schema.PERT_ID].astype(str)
    combos = sorted(set(perts[is_combo(conditions) == 1]))
    if not combos:
        msg = "combo_ood needs combinations of perturbations, the data set has none"
        raise SplitError(msg)
    if spec.folds is None:
        holdout = sorted({canonical_pert(typed_pert(c, combos))[0] for c in params.holdout})
        if not holdout:
            msg = f"combo_ood needs --holdout-combo or --folds; there are {len(combos)} combinations, e.g. {combos[0]}"
            raise SplitError(msg)
        must_be_known(holdout, combos, "combination")
        parts, wanted = [holdout], [0]
    else:
        if params.holdout:
            msg = "give either --holdout-combo or --folds, not both"
            raise SplitError(msg)
        parts, wanted = partition(combos, spec.folds, spec.seed, "combinations"), wanted_folds(spec)
    return [
        Draft(
            test=conditions.index[perts.isin(parts[f]).to_numpy()].tolist(),
            params={"holdout": parts[f]},
            ood_axes=("combo",),
            fold=f if spec.folds else None,
            k=spec.folds,
        )
        for f in wanted
    ]
