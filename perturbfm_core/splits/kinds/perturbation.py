"""Splits with unseen perturbations (genes or drugs), alone and in combinations: `perturbation_ood`."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.condition import distinct_genes, pert_genes
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import Draft, Names, must_be_known, partition, split_kind, wanted_folds


class PerturbationParams(Frozen):
    """Parameters of ``perturbation_ood``."""

    holdout: Annotated[Names, CommandOption("--holdout-perturbation")] = Field(
        (), description="Gene or drug to hold out."
    )


@split_kind("perturbation_ood", PerturbationParams)
def perturbation_ood(conditions: pd.DataFrame, spec: SplitSpec, params: PerturbationParams) -> list[Draft]:
    """Hold out genes (``holdout``), or partition the genes into k folds.

    A combination with a held-out gene is a test condition, whatever its other gene.

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
        If no gene or an unknown one is named, or no condition would be left to train on.
    """
    genes = distinct_genes(conditions[schema.PERT_ID].astype(str))
    if spec.folds is None:
        holdout = sorted(set(params.holdout))
        if not holdout:
            msg = f"perturbation_ood needs --holdout-perturbation or --folds; there are {len(genes)} perturbed genes"
            raise SplitError(msg)
        must_be_known(holdout, genes, "perturbation")
        return [_draft(conditions, holdout, None, None)]
    if params.holdout:
        msg = "give either --holdout-perturbation or --folds, not both"
        raise SplitError(msg)
    parts = partition(genes, spec.folds, spec.seed, "perturbed genes")
    return [_draft(conditions, parts[f], f, spec.folds) for f in wanted_folds(spec)]


def _draft(conditions: pd.DataFrame, holdout: list[str], fold: int | None, k: int | None) -> Draft:
    held = set(holdout)
    touched = [bool(held & set(pert_genes(p))) for p in conditions[schema.PERT_ID].astype(str)]
    if all(touched):
        msg = f"holding out {len(held)} perturbations leaves no condition to train on; hold out fewer"
        raise SplitError(msg)
    test = [key for key, hit in zip(conditions.index, touched, strict=True) if hit]
    return Draft(test=test, params={"holdout": holdout}, ood_axes=("perturbation",), fold=fold, k=k)
