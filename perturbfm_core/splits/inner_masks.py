"""Masks of the inner folds of a split: the training conditions that each fits on, and those that it holds out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.schema import BoolArray
from perturbfm_core.splits.split import CROSSED, InnerFolds, units_of


def crossed_units(conditions: pd.DataFrame) -> list[tuple[str, tuple[str, ...]]]:
    """Return (context, perturbed genes) of each condition, as `InnerFolds` names them."""
    contexts = conditions[schema.CONTEXT_ID].astype(str)
    perts = conditions[schema.PERT_ID].astype(str)
    return [
        (f"context {c}", tuple(f"perturbation {g}" for g in pert_genes(p)))
        for c, p in zip(contexts, perts, strict=True)
    ]


def crossed_parts(fold: int, n_contexts: int, n_perts: int) -> tuple[int, int]:
    """Return which part of the contexts and of the perturbations a fold holds out: each pair of parts in one fold.

    Parameters
    ----------
    fold
        Number of the fold.
    n_contexts, n_perts
        Number of parts of either.
    """
    turn, part = divmod(fold, n_perts)
    return (part + turn) % n_contexts, part


def inner_masks(inner: InnerFolds, conditions: pd.DataFrame) -> list[tuple[BoolArray, BoolArray]]:
    """Return masks (fit, held out), bool [C] each, over training conditions for every inner fold.

    Folds that would hold out nothing or everything are skipped. Where contexts and perturbations are held out at once,
    conditions with one of the two are in neither mask.
    """
    if inner.unit == CROSSED:
        return _crossed_masks(inner, conditions)
    # A condition with units in several folds (a combination of two genes) is held out by each of them.
    units = units_of(conditions, inner.unit)
    fold_sets = [{inner.folds[u] for u in us if u in inner.folds} for us in units]
    out = []
    for i in range(inner.k):
        held = np.asarray([i in s for s in fold_sets], dtype=np.bool_)
        if held.any() and not held.all():
            out.append((~held, held))
    return out


def _crossed_masks(inner: InnerFolds, conditions: pd.DataFrame) -> list[tuple[BoolArray, BoolArray]]:
    units, of = crossed_units(conditions), inner.folds
    context = np.asarray([of.get(c, -1) for c, _ in units])
    perts = [{of[g] for g in genes if g in of} for _, genes in units]
    n_contexts, n_perts = (
        1 + max((i for name, i in of.items() if name.startswith(f"{axis} ")), default=0)
        for axis in ("context", "perturbation")
    )
    out = []
    for fold in range(inner.k):
        there, part = crossed_parts(fold, n_contexts, n_perts)
        far, new = context == there, np.asarray([part in p for p in perts], dtype=np.bool_)
        if (far & new).any() and (~far & ~new).any():
            out.append((~far & ~new, far & new))
    return out
