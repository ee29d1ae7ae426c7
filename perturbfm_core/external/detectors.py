"""Predictions that are the control under another name, or the same whatever is perturbed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.schema import BoolArray, FloatArray

# Values that differ less than this, as a share of themselves or of the scale of all, are equal but for rounding in half
# precision, and in single precision.
_HALF, _SINGLE = 1e-3, 1e-5
# A prediction is a control, and not a weak effect, if it is so much nearer to it than the median of all predictions.
_NEAR: Final = 0.05
# Fewer predictions than this say nothing of how near is near.
_FEWEST: Final = 3
# A model hardly responds if it differs from its own control by less than this share of the spread over genes.
_RESPONSE: Final = 0.05
# Conditions of one context hardly differ if their spread is less than this share of the effect size.
_SPREAD: Final = 0.02


def are_control(delta: FloatArray, expression: FloatArray | None) -> BoolArray:
    """Return bool [C], predictions that are the control that they are compared with.

    Small deltas that a model predicts as such are weak effects. Expression that is equal to a control but for rounding, or so
    much nearer to it than other predictions are, is that control with other noise.

    Parameters
    ----------
    delta
        Predicted deltas to a control [C, G].
    expression
        What they are the differences of [C, G], None where deltas were predicted.
    """
    size = np.abs(delta)
    if expression is None:
        return np.asarray(size.max(axis=1, initial=0.0) <= _SINGLE, dtype=np.bool_)
    out = _equal(expression, expression - delta, _HALF)
    away = np.sqrt(np.square(delta, dtype=np.float64).mean(axis=1))
    if len(away) >= _FEWEST:
        out |= away < _NEAR * np.median(away)
    return out


def same_predictions(values: Sequence[FloatArray], conditions: pd.DataFrame) -> tuple[str, BoolArray] | None:
    """Return (what is the same, bool [C] of the conditions concerned), None if all predictions differ.

    Perturbations of one context are compared: doses and times of one perturbation may have one answer.

    Parameters
    ----------
    values
        Predictions [C, G] in one or several forms, such as expression and delta; those that are the same in any are.
    conditions
        Condition table [C].
    """
    n = len(conditions)
    context = conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    pert = conditions[schema.PERT_ID].astype(str).to_numpy()
    everyone = np.ones(n, dtype=np.bool_)
    if n > 1 and len(set(pert)) > 1 and any(_all_equal(v) for v in values):
        return f"all {n} conditions have the same prediction", everyone
    out = np.zeros(n, dtype=np.bool_)
    whole = []
    for name in sorted(set(context)):
        at = np.flatnonzero(context == name)
        if len(set(pert[at])) < 2:
            continue
        if any(_all_equal(v[at]) for v in values):
            whole.append(name)
            out[at] = True
            continue
        for v in values:
            out[at] |= _equal_to_another(v[at], pert[at])
    if not out.any():
        return None
    if whole:
        contexts = len(set(context))
        shown = ", ".join(whole[:3])
        return (
            f"all conditions of a context have the same prediction, in {len(whole)} of {contexts} contexts ({shown})",
            out,
        )
    names = conditions.index[out].tolist()
    return (
        f"{int(out.sum())} of {n} conditions have the same prediction as another perturbation of their context, e.g. {names[:3]}",
        out,
    )


def weak_responses(own_delta: FloatArray, own: FloatArray) -> list[str]:
    """Return whether a model hardly differs from its own control [C, G], by its deltas to that [C, G]."""
    away = np.sqrt(np.square(own_delta).mean(axis=1))
    still = away < _RESPONSE * own.std(axis=1)
    if not still.any():
        return []
    return [
        f"{int(still.sum())} of {len(own)} predictions are nearly the model's own control (they differ by {np.median(away[still]):.2g} "
        "on average): it hardly responds, as of too little training or of perturbations that it does not know"
    ]


def flat_contexts(delta: FloatArray, conditions: pd.DataFrame) -> list[str]:
    """Return in which contexts predicted deltas [C, G] hardly differ; those that are equal are said elsewhere.

    Parameters
    ----------
    delta
        Predicted deltas to one control [C, G].
    conditions
        Condition table [C].
    """
    names = conditions[schema.CONTEXT_ID].astype(str).to_numpy()
    flat = []
    for name in sorted(set(names)):
        d = delta[names == name]
        size = np.sqrt(np.square(d).sum(axis=1).mean())
        spread = np.sqrt(np.square(d - d.mean(axis=0)).sum(axis=1).mean())
        if len(d) > 1 and spread < _SPREAD * size and not _all_equal(d):
            flat.append(name)
    if not flat:
        return []
    return [
        f"conditions of a context hardly differ (by less than {_SPREAD:.0%} of their effect), in {len(flat)} of "
        f"{len(set(names))} contexts ({', '.join(flat[:3])})"
    ]


def _equal(one: FloatArray, other: FloatArray, share: float = 0.0) -> BoolArray:
    """Return bool [C], rows that are equal but for rounding in single precision, and a share of each value."""
    scale = max(float(np.abs(other).max(initial=0.0)), 1e-6)
    tolerance = share * np.maximum(np.abs(one), np.abs(other)) + _SINGLE * scale
    return np.asarray((np.abs(one - other) <= tolerance).all(axis=1), dtype=np.bool_)


def _all_equal(values: FloatArray) -> bool:
    return bool(_equal(values, values[:1]).all())


def _equal_to_another(values: FloatArray, pert: FloatArray) -> BoolArray:
    """Return bool [n], rows that equal that of another perturbation."""
    # Equal rows are neighbours in the order of a projection on random weights.
    order = np.argsort(values @ np.random.default_rng(0).standard_normal(values.shape[1]), kind="stable")
    close = _equal(values[order[1:]], values[order[:-1]]) & (pert[order[1:]] != pert[order[:-1]])
    out = np.zeros(len(values), dtype=np.bool_)
    out[order[1:]] |= close
    out[order[:-1]] |= close
    return out
