"""Splits whose test conditions combine an unseen context with an unseen perturbation."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.data.condition import distinct_genes, pert_genes
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import (
    Draft,
    Names,
    must_be_known,
    partition,
    share,
    split_kind,
    wanted_folds,
)


class ContextPerturbationParams(Frozen):
    """Parameters of ``context_perturbation_ood``."""

    contexts: Annotated[Names, CommandOption("--holdout-context")] = Field(
        (), description="Context to hold out."
    )
    perturbations: Annotated[Names, CommandOption("--holdout-perturbation")] = Field(
        (), description="Gene or drug to hold out."
    )
    test_frac: float = Field(0.2, description="Share to test.")


@split_kind("context_perturbation_ood", ContextPerturbationParams)
def context_perturbation_ood(
    conditions: pd.DataFrame, spec: SplitSpec, params: ContextPerturbationParams
) -> list[Draft]:
    """Hold out ``contexts`` and ``perturbations`` at once: test has both, train neither.

    Conditions with only one of the two go to `unused`. Without ``perturbations``, ``test_frac`` of the genes
    perturbed in the held-out contexts are drawn. With k folds, fold f holds out part f of the contexts and
    part f of the genes.

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
        If no context or an unknown name is given, or train or test would be empty.
    """
    contexts = sorted(set(conditions[schema.CONTEXT_ID].astype(str)))
    genes = distinct_genes(conditions[schema.PERT_ID].astype(str))
    if spec.folds is not None:
        if params.contexts or params.perturbations:
            msg = "give either --holdout-context and --holdout-perturbation or --folds, not both"
            raise SplitError(msg)
        parts = zip(
            partition(contexts, spec.folds, spec.seed, "contexts"),
            partition(genes, spec.folds, spec.seed, "perturbed genes"),
            strict=True,
        )
        held = list(parts)
        return [_draft(conditions, *held[f], f, spec.folds) for f in wanted_folds(spec)]
    wanted = sorted(set(params.contexts))
    if not wanted:
        msg = f"context_perturbation_ood needs --holdout-context or --folds; contexts: {', '.join(contexts[:12])}"
        raise SplitError(msg)
    must_be_known(wanted, contexts, "context")
    chosen = sorted(set(params.perturbations))
    if not chosen:
        out = conditions[schema.CONTEXT_ID].astype(str).isin(wanted)
        there = distinct_genes(conditions.loc[out, schema.PERT_ID].astype(str))
        n = max(1, round(share(params.test_frac, "test_frac") * len(there)))
        order = np.random.default_rng(spec.seed).permutation(len(there))
        chosen = sorted(there[i] for i in order[:n])
    must_be_known(chosen, genes, "perturbation")
    return [_draft(conditions, wanted, chosen, None, None)]


def _draft(
    conditions: pd.DataFrame, contexts: list[str], genes: list[str], fold: int | None, k: int | None
) -> Draft:
    held = set(genes)
    far = conditions[schema.CONTEXT_ID].astype(str).isin(contexts).to_numpy()
    new = np.asarray(
        [bool(held & set(pert_genes(p))) for p in conditions[schema.PERT_ID].astype(str)], dtype=np.bool_
    )
    for what, mask in (("test", far & new), ("train", ~far & ~new)):
        if not mask.any():
            where = "" if fold is None else f" in fold {fold}"
            msg = (
                f"holding out {len(contexts)} contexts and {len(genes)} perturbations leaves nothing to {what} on"
                f"{where}; hold out {'others' if what == 'test' else 'fewer'}, or use another --seed"
            )
            raise SplitError(msg)
    return Draft(
        test=conditions.index[far & new].tolist(),
        unused=conditions.index[far ^ new].tolist(),
        params={"contexts": contexts, "perturbations": genes},
        ood_axes=("context", "perturbation"),
        fold=fold,
        k=k,
    )
