"""Novelty of held-out conditions: labels for an AUROC of the uncertainty, and two trivial scores for comparison.

Held-out conditions are compared with each other: combinations with no part among train's single perturbations with
combinations with all parts there; where there are too few of these, unseen perturbations with perturbations that
train has in other contexts. Separating train from held-out conditions would be possible with a look-up table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.data.condition import pert_genes
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.schema import CONTEXT_ID, PERT_ID, FloatArray, IntArray

MIN_CLUSTERS = 5
COMBINATIONS = "combinations of unseen against combinations of seen singles"
PERTURBATIONS = "unseen perturbations against seen ones in a new context"


def labels(c: Comparison) -> tuple[str | None, FloatArray]:
    """Return (description of the two groups, float64 [C]): 1 more novel, 0 less novel, NaN neither.

    The description is None where neither comparison has enough perturbations.
    """

    def compute() -> tuple[str | None, FloatArray]:
        nothing = np.full(len(c), np.nan)
        if c.train is None:
            return None, nothing
        perts = {str(p) for p in c.train.conditions[PERT_ID]}
        seen = membership(c)
        parts = np.asarray([len(pert_genes(str(p))) for p in c.perturbations])
        combos = np.where(parts > 1, np.where(seen == 0, 1.0, np.where(seen == parts, 0.0, np.nan)), np.nan)
        if enough(c, combos, np.arange(len(c))):
            return COMBINATIONS, combos
        pairs = set(
            zip(
                c.train.conditions[CONTEXT_ID].astype(str),
                c.train.conditions[PERT_ID].astype(str),
                strict=True,
            )
        )
        known = np.asarray([str(p) in perts for p in c.perturbations])
        moved = np.asarray(
            [(str(x), str(p)) not in pairs for x, p in zip(c.contexts, c.perturbations, strict=True)]
        )
        other = np.where(~known, 1.0, np.where(moved, 0.0, np.nan))
        if enough(c, other, np.arange(len(c))):
            return PERTURBATIONS, other
        return None, nothing

    return c.once_per_observed("uncertainty.novelty", compute)


def enough(c: Comparison, label: FloatArray, positions: IntArray) -> bool:
    """Return whether both groups have at least 5 different perturbations.

    Parameters
    ----------
    c
        The comparison.
    label
        1 more novel, 0 less novel, NaN neither [C].
    positions
        Positions of the conditions to count.
    """
    mine = label[positions]
    return all(
        len(np.unique(c.perturbations[positions][mine == side])) >= MIN_CLUSTERS for side in (0.0, 1.0)
    )


def membership(c: Comparison) -> FloatArray:
    """Return float64 [C], the number of parts of each condition that train has as single perturbations."""
    perts: set[str] = set() if c.train is None else {str(p) for p in c.train.conditions[PERT_ID]}
    return np.asarray(
        [sum(g in perts for g in pert_genes(str(p))) for p in c.perturbations], dtype=np.float64
    )


def lacking(c: Comparison) -> FloatArray:
    """Return float64 [C], the number of parts of each condition that train lacks as singles (a look-up table's score)."""
    parts = np.asarray([len(pert_genes(str(p))) for p in c.perturbations], dtype=np.float64)
    return np.asarray(parts - membership(c))


def distance(c: Comparison) -> FloatArray | None:
    """Return float64 [C], one minus the highest cosine of the predicted delta with any train delta."""
    if c.train is None:
        return None
    train = c.train.delta

    def unit(A: Any) -> Any:
        norm = np.linalg.norm(A, axis=1, keepdims=True)
        return np.divide(A, norm, out=np.zeros_like(A), where=norm > 0)

    return np.asarray(1.0 - (unit(c.predicted) @ unit(train).T).max(axis=1))


def sigma(c: Comparison) -> FloatArray:
    """Return float64 [C], root of the mean predicted variance over genes."""
    return np.asarray(np.sqrt(c.predicted_var.mean(axis=1)))


def model_score(c: Comparison) -> FloatArray:
    """Return float64 [C], the model's uncertainty: the epistemic one where it predicts it, otherwise `sigma`."""
    return sigma(c) if c.var_epistemic is None else np.asarray(np.sqrt(c.var_epistemic.mean(axis=1)))
