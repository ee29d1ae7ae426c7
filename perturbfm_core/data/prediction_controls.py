"""Predictions that lie where the control of another context, or an average before the logarithm, would put them.

Both are warned of and never refused: a model may well say so of its conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.schema import FloatArray

# A prediction is of another context if that control is nearer than this share of the distance to its own.
_NEARER: Final = 0.5
_SHOWN = 3
# The log1p of a mean lies above the mean of log1p by half the variance between cells, if that is log-normal. Between these
# two multiples of it a difference is taken for that, in genes whose variance is above this share of the largest.
_GAP, _VARIES = (0.25, 2.0), 0.05
# Shares of these genes that lie between, and that are above the control at all; fewer genes say nothing.
_BETWEEN, _ABOVE, _FEWEST_GENES = 0.6, 0.75, 20


def of_other_contexts(expression: FloatArray, control: FloatArray, conditions: pd.DataFrame) -> list[str]:
    """Return which predictions are near the control of another context than their own, as a sentence.

    Parameters
    ----------
    expression
        Predicted expression [C, G].
    control
        Matched real controls [C, G].
    conditions
        Condition table [C].
    """
    context = conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    names = sorted(set(context))
    if len(names) < 2:
        return []
    moved = expression - control
    own = np.sqrt(np.einsum("cg,cg->c", moved, moved) / expression.shape[1])
    centres = np.stack([control[context == other].mean(axis=0) for other in names])
    # Squares are summed apart: a difference for each context would take as many copies of all predictions.
    squares = np.einsum("cg,cg->c", expression, expression)[:, None] - 2 * expression @ centres.T
    squares += np.square(centres).sum(axis=1)
    away = np.sqrt(np.maximum(squares, 0.0) / expression.shape[1])
    away[np.arange(len(own)), [names.index(c) for c in context]] = np.inf
    nearest, which = away.min(axis=1), away.argmin(axis=1)
    found = np.flatnonzero(nearest < _NEARER * own)
    if not len(found):
        return []
    shown = ", ".join(f"{conditions.index[i]!s} ({names[which[i]]})" for i in found[:_SHOWN])
    return [
        f"{len(found)} of {len(own)} predictions are much nearer to the control of another context than to their "
        f"own, e.g. {shown}: are contexts exchanged, or was the control of another one taken?"
    ]


def logs_of_means(
    delta: FloatArray, cell_var: Callable[[str], FloatArray], conditions: pd.DataFrame
) -> list[str]:
    """Return whether predictions lie above the control as the log1p of a mean over cells does, as a sentence.

    Parameters
    ----------
    delta
        Predicted deltas to the real control [C, G].
    cell_var
        From a context to the variance between its control cells [G].
    conditions
        Condition table [C].
    """
    context = conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    names = sorted(set(context))
    gap = np.concatenate([np.nan_to_num(cell_var(c)) for c in names]) / 2
    # Over many conditions of a context, effects of perturbations average out; the gap does not.
    away = np.concatenate([delta[context == c].mean(axis=0) for c in names])
    varies = gap > _VARIES * gap.max(initial=0.0)
    gap, away = gap[varies], away[varies]
    if len(gap) < _FEWEST_GENES:
        return []
    ratio = away / gap
    between = float(((ratio > _GAP[0]) & (ratio < _GAP[1])).mean())
    above = float((away > 0).mean())
    middle = np.median(ratio)
    # A change of depth lifts all genes alike.
    alike = np.abs(away - np.median(away)).sum() <= np.abs(away - middle * gap).sum()
    if between < _BETWEEN or above < _ABOVE or alike:
        return []
    return [
        f"predictions lie above the control in {above:.0%} of the genes that vary between cells, by as much ({np.median(away):.2g}) as "
        "the log1p of a mean over cells lies above the mean of log1p that is scored: take log1p of each cell first, then the "
        "mean, or give the model's own control made in the same way and --control model"
    ]


def cell_variance(ds: PerturbDataset, context: str) -> FloatArray:
    """Return float64 [G], the variance between the input control cells of a context, log1p."""
    groups, pools = ds.controls, ds.control_pools("input")
    var: FloatArray = pools.var[groups.n_groups + list(map(str, groups.contexts)).index(context)]
    return var
