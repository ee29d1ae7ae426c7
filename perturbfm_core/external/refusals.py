"""Refusals of raw output: conditions that are missing or a control under another name, numbers that are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd

from perturbfm_core.errors import PredictionError
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.detectors import are_control
from perturbfm_core.external.raw import Raw
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

ControlOf = Literal["real", "model"]
Missing = Literal["refuse", "control"]
Degenerate = Literal["refuse", "flag"]

# End of the name of an entry whose predictions are compared with the model's own control.
OWN_CONTROL: Final = "-own-control"
LEAVE: Final = "give --missing control (of a run: --param missing=control) to score their control instead"
FLAG: Final = (
    "give --degenerate flag (of a run: --param degenerate=flag) to convert it as it is, with a warning"
)


@dataclass(frozen=True, eq=False)
class Values:
    """Predictions of the present conditions.

    Attributes
    ----------
    real, model
        Deltas to the real and to the model's own control, None where that is unknown.
    expression
        What they are the differences of, None where deltas were predicted.
    own
        The model's own control, None where it is unknown.
    """

    real: FloatArray | None
    model: FloatArray | None
    expression: FloatArray | None
    own: FloatArray | None

    @property
    def predicted_deltas(self) -> list[FloatArray]:
        """Return the deltas to either control."""
        return [d for d in (self.real, self.model) if d is not None]


def replaced_by_control(
    name: str,
    keys: pd.Index,
    values: Values,
    missing: Missing,
    degenerate: Degenerate,
    warnings: list[str],
) -> BoolArray:
    """Return bool [n], which present conditions are a control under another name.

    Parameters
    ----------
    name
        What holds the predictions, for messages.
    keys
        Keys of the present conditions [n].
    values
        Their predictions.
    missing, degenerate
        As in `convert`.
    warnings
        Sentences that every reader of the scores must see, to which it is added.

    Raises
    ------
    PredictionError
        If there are some, unless they are to be left out or only warned of.
    """
    found = np.zeros(len(keys), dtype=np.bool_)
    for delta in values.predicted_deltas:
        found |= are_control(delta, values.expression)
    if not found.any():
        return found
    text = (
        f"{int(found.sum())} of {len(found)} predictions are a control (their delta is 0 but for rounding or noise), "
        f"e.g. {[str(k) for k in keys[found][:3]]}"
    )
    if degenerate == "flag":
        warnings.append(text)
        return found
    if found.all():
        msg = f"{name}: all {len(found)} predictions are the control (their delta is 0), so that nothing is predicted; {FLAG}"
        raise PredictionError(msg)
    if missing == "refuse":
        msg = f"{name}: {text}; models replace perturbations that they do not know so: {LEAVE}, or {FLAG}"
        raise PredictionError(msg)
    return found


def refuse_missing(name: str, asked: Asked, absent: BoolArray, skipped: BoolArray, why: list[str]) -> None:
    """Refuse a raw output that lacks conditions.

    Parameters
    ----------
    name
        What lacks them, for the message.
    asked
        The conditions asked for.
    absent, skipped
        bool [C], those without a prediction, and of these the ones that the worker lists as skipped.
    why
        What it says of these.

    Raises
    ------
    PredictionError
        If there are any.
    """
    if not absent.any():
        return
    keys = [str(k) for k in asked.conditions.index[absent][:3]]
    reported = (
        f" ({int(skipped.sum())} of them skipped by the worker{': ' + why[0] if why else ''})"
        if skipped.any()
        else ""
    )
    if absent.all():
        msg = f"{name} predicts none of the {len(asked)} conditions asked for{reported}, e.g. {keys}; predict them"
    else:
        msg = f"{name} does not predict {int(absent.sum())} of {len(asked)} conditions{reported}, e.g. {keys}; predict them, or {LEAVE}"
    raise PredictionError(msg)


def check_finite(raw: Raw, asked: Asked, at: IntArray, present: IntArray) -> None:
    """Refuse NaN, infinity and negative variance.

    Parameters
    ----------
    raw, asked
        The raw output, and the conditions asked for.
    at, present
        Rows of the output that are used, and the condition of each.

    Raises
    ------
    PredictionError
        If there are any.
    """
    for what, values in (("mean", raw.mean), ("var", raw.var), ("control", raw.control)):
        if values is None:
            continue
        bad = ~np.isfinite(values[at])
        if bad.any():
            rows, columns = bad.any(axis=1), bad.any(axis=0)
            msg = (
                f"{raw.source}: {what} is NaN or infinite in {int(rows.sum())} of {len(at)} conditions, e.g. "
                f"{str(asked.conditions.index[present[rows]][0])!r}, and {int(columns.sum())} genes, e.g. "
                f"{str(raw.genes[columns][0])!r}; predict finite values"
            )
            raise PredictionError(msg)
    if raw.var is not None and (raw.var[at] < 0).any():
        rows = (raw.var[at] < 0).any(axis=1)
        msg = f"{raw.source}: var is negative in {int(rows.sum())} conditions, e.g. {str(asked.conditions.index[present[rows]][0])!r}"
        raise PredictionError(msg)


def no_control(name: str, control: ControlOf) -> str:
    """Return why predictions cannot be compared with a control."""
    if control == "model":
        return f"{name} has no control of the model's own; write it as `control` [R, G], or take the real one (--control real)"
    return (
        f"{name} is a delta to the model's own control, which it does not hold; write it as `control` [R, G], or declare the "
        "variant by --control model"
    )
