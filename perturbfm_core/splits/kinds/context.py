"""Unseen contexts: whole cell lines, cell types or tissues are held out."""

from __future__ import annotations

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import SplitSpec
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import (
    KINDS,
    Draft,
    must_be_known,
    partition,
    seen_perts,
    take_params,
    wanted_folds,
)


@KINDS.register("context_ood")
def context_ood(conditions: pd.DataFrame, spec: SplitSpec) -> list[Draft]:
    """Hold out named contexts as a whole (``holdout``), or partition the contexts into k folds.

    Test keeps the perturbations that train has in another context; the others go to `unused`.
    """
    params = take_params(spec, {"holdout": []})
    contexts = sorted(set(conditions[schema.CONTEXT_ID].astype(str)))
    if spec.folds is None:
        holdout = sorted(set(params["holdout"]))
        if not holdout:
            msg = f"context_ood needs --holdout-context or --folds; contexts: {', '.join(contexts)}"
            raise SplitError(msg)
        must_be_known(holdout, contexts, "context")
        return [_draft(conditions, holdout, None, None)]
    if params["holdout"]:
        msg = "give either --holdout-context or --folds, not both"
        raise SplitError(msg)
    parts = partition(contexts, spec.folds, spec.seed, "contexts")
    return [_draft(conditions, parts[f], f, spec.folds) for f in wanted_folds(spec)]


@KINDS.register("leave_one_context_out")
def leave_one_context_out(conditions: pd.DataFrame, spec: SplitSpec) -> list[Draft]:
    """Hold out each context in turn: `context_ood` once per context, as one cross-validation."""
    take_params(spec, {})
    contexts = sorted(set(conditions[schema.CONTEXT_ID].astype(str)))
    if len(contexts) < 2:
        msg = f"leave_one_context_out needs at least 2 contexts, found {contexts}"
        raise SplitError(msg)
    wanted = range(len(contexts)) if spec.fold is None else [spec.fold]
    if spec.fold is not None and spec.fold >= len(contexts):
        msg = f"fold {spec.fold} does not exist: there are {len(contexts)} contexts"
        raise SplitError(msg)
    return [_draft(conditions, [contexts[i]], i, len(contexts)) for i in wanted]


def _draft(conditions: pd.DataFrame, holdout: list[str], fold: int | None, k: int | None) -> Draft:
    out = conditions[schema.CONTEXT_ID].astype(str).isin(holdout).to_numpy()
    if out.all():
        msg = f"holding out {', '.join(holdout)} leaves no context to train on; hold out fewer"
        raise SplitError(msg)
    seen = seen_perts(conditions[~out])
    known = conditions[schema.PERT_ID].astype(str).isin(seen).to_numpy()
    test = conditions.index[out & known].tolist()
    if not test:
        msg = f"no perturbation of {', '.join(holdout)} occurs in another context; nothing could be tested, hold out another"
        raise SplitError(msg)
    return Draft(
        test=test,
        unused=conditions.index[out & ~known].tolist(),
        params={"holdout": holdout},
        ood_axes=("context",),
        fold=fold,
        k=k,
    )
