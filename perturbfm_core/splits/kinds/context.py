"""Splits with unseen contexts (cell lines, cell types, tissues): `context_ood`, `leave_one_context_out`."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.config import CommandOption, Frozen
from perturbfm_core.errors import SplitError
from perturbfm_core.splits.draft import (
    Draft,
    Names,
    must_be_known,
    partition,
    seen_perts,
    share,
    split_kind,
    wanted_folds,
)


class ContextParams(Frozen):
    """Parameters of ``context_ood``."""

    holdout: Annotated[Names, CommandOption("--holdout-context")] = Field(
        (), description="Context to hold out."
    )
    few_shot_frac: float = Field(0.0, description="Share of a held-out context's conditions that train gets.")


@split_kind("context_ood", ContextParams)
def context_ood(conditions: pd.DataFrame, spec: SplitSpec, params: ContextParams) -> list[Draft]:
    """Hold out named contexts as a whole (``holdout``), or partition the contexts into k folds.

    Perturbations that train has in another context are tested; the others go to `unused`. The split is
    zero-shot unless ``few_shot_frac`` moves that share of each held-out context's conditions to train.

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
        If no context or an unknown one is named, or train or test would be empty.
    """
    few = _few_shot(params.few_shot_frac)
    contexts = sorted(set(conditions[schema.CONTEXT_ID].astype(str)))
    if spec.folds is None:
        holdout = sorted(set(params.holdout))
        if not holdout:
            msg = f"context_ood needs --holdout-context or --folds; contexts: {', '.join(contexts)}"
            raise SplitError(msg)
        must_be_known(holdout, contexts, "context")
        return [_draft(conditions, holdout, None, None, few, spec.seed)]
    if params.holdout:
        msg = "give either --holdout-context or --folds, not both"
        raise SplitError(msg)
    parts = partition(contexts, spec.folds, spec.seed, "contexts")
    return [_draft(conditions, parts[f], f, spec.folds, few, spec.seed) for f in wanted_folds(spec)]


class LeaveOneContextOutParams(Frozen):
    """Parameters of ``leave_one_context_out``."""

    few_shot_frac: float = Field(0.0, description="Share of a held-out context's conditions that train gets.")


@split_kind("leave_one_context_out", LeaveOneContextOutParams)
def leave_one_context_out(
    conditions: pd.DataFrame, spec: SplitSpec, params: LeaveOneContextOutParams
) -> list[Draft]:
    """Hold out each context in turn: `context_ood` once per context, as one cross-validation.

    Parameters
    ----------
    conditions
        Condition table [C] of the data set.
    spec
        Split specification: seed and, optionally, a single fold.
    params
        Parameters of this kind.

    Raises
    ------
    SplitError
        If there are fewer than two contexts, the fold does not exist, or train or test would be empty.
    """
    few = _few_shot(params.few_shot_frac)
    contexts = sorted(set(conditions[schema.CONTEXT_ID].astype(str)))
    if len(contexts) < 2:
        msg = f"leave_one_context_out needs at least 2 contexts, found {contexts}"
        raise SplitError(msg)
    wanted = range(len(contexts)) if spec.fold is None else [spec.fold]
    if spec.fold is not None and spec.fold >= len(contexts):
        msg = f"fold {spec.fold} does not exist: there are {len(contexts)} contexts"
        raise SplitError(msg)
    return [_draft(conditions, [contexts[i]], i, len(contexts), few, spec.seed) for i in wanted]


def _few_shot(value: float) -> float:
    return share(value, "few_shot_frac") if value else 0.0


def _draft(
    conditions: pd.DataFrame, holdout: list[str], fold: int | None, k: int | None, few: float, seed: int
) -> Draft:
    out = conditions[schema.CONTEXT_ID].astype(str).isin(holdout).to_numpy()
    if out.all():
        msg = f"holding out {', '.join(holdout)} leaves no context to train on; hold out fewer"
        raise SplitError(msg)
    contexts = conditions[schema.CONTEXT_ID].astype(str)
    shots = _shots(conditions, holdout, few, seed) if few else []
    out = out & ~conditions.index.isin(shots)
    seen = seen_perts(conditions[~out])
    known = conditions[schema.PERT_ID].astype(str).isin(seen).to_numpy()
    test = conditions.index[out & known].tolist()
    if not test:
        msg = f"no perturbation of {', '.join(holdout)} occurs in another context; nothing could be tested, hold out another"
        raise SplitError(msg)
    return Draft(
        test=test,
        unused=conditions.index[out & ~known].tolist(),
        params={"holdout": holdout} | ({"few_shot_frac": few, "few_shot": shots} if few else {}),
        ood_axes=("context",),
        fold=fold,
        k=k,
        # The few-shot conditions stay in train: validation and calibration use other contexts only.
        spare=dict(contexts[~contexts.isin(holdout)].items()) if few else None,
    )


def _shots(conditions: pd.DataFrame, holdout: list[str], few: float, seed: int) -> list[str]:
    """Return the few-shot conditions of the held-out contexts, at least one and not all of each context."""
    out: list[str] = []
    contexts = conditions[schema.CONTEXT_ID].astype(str)
    for i, context in enumerate(holdout):
        keys = [str(key) for key in conditions.index[contexts == context]]
        n = max(1, round(few * len(keys)))
        if n >= len(keys):
            msg = (
                f"few_shot_frac {few:g} of the {len(keys)} conditions of {context!r} leaves none to test; "
                "lower --few-shot-frac, or hold out another context"
            )
            raise SplitError(msg)
        order = np.random.default_rng([seed, i]).permutation(len(keys))
        out += [keys[j] for j in order[:n]]
    return sorted(out)
