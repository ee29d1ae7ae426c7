"""Kind of the numbers of a prediction, delta or expression: as declared, or recognised by the control."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import FloatArray, PredictionKind

# log1p expression lies below this, whatever the depth of sequencing.
_LOG1P_CEILING = 25.0
# A mean resembles the control if its projection on it has at least this length, and their angle this cosine.
_LENGTH, _COSINE = 0.5, 0.7
# Share of negative values that no log1p expression has, even with some noise around 0.
_NEGATIVE = 0.1


@dataclass(frozen=True)
class Decided:
    """What the numbers are, by what (``option``, ``file``, ``recognised`` or ``default``), and what to warn of."""

    kind: PredictionKind
    source: str
    warnings: list[str] = field(default_factory=list)


def decide(
    *,
    name: str,
    values: Any,
    mean: FloatArray,
    control: FloatArray | None,
    asked: PredictionKind | None,
    stated: PredictionKind | None,
    by_convention: bool,
    scale: str,
) -> Decided:
    """Return what the numbers of a prediction are.

    Parameters
    ----------
    name
        What holds the numbers, for messages.
    values
        Predicted rows [n, G], CSR or dense.
    mean, control
        Predicted mean and matched control of the predicted conditions [C, G]; no control for delta-only data.
    asked, stated
        The kind that the user and that the file declares, None if it does not.
    by_convention
        Whether the format of the file commonly holds expression.
    scale
        The scale of the data set, in words.

    Raises
    ------
    PredictionError
        If the numbers do not look like what they are declared or taken to be.
    """
    if control is None:
        if "expression" in (asked, stated if asked is None else None):
            msg = f"{name} is declared as expression, but the data set has no controls to subtract ({scale}); predict deltas"
            raise PredictionError(msg)
        return Decided("delta", "option" if asked else "file" if stated else "default")
    share, correlation = _resemblance(mean, control)
    resembles = share > 0.5
    declared = asked or stated
    if declared == "expression":
        _check_expression(name, values, scale, resembles)
        return Decided("expression", "option" if asked else "file")
    like = f"{name} looks like expression, not like a delta (its correlation with the control is {correlation:.2f})"
    if asked == "delta":
        return Decided(
            "delta", "option", [f"{like}, and is scored as a delta as --kind says"] if resembles else []
        )
    if by_convention and stated is None:
        if resembles:
            _check_expression(name, values, scale, resembles)
            return Decided("expression", "recognised")
        if _share_below(values) > 0 or not _stored(values).any():
            return Decided("delta", "recognised")
        _refuse_counts(name, values, scale, hint="give --kind delta if it holds differences")
        msg = f"{name} is neither like the control nor like differences (no value is negative); say what it is: --kind expression or --kind delta"
        raise PredictionError(msg)
    if resembles:
        _refuse_counts(name, values, scale, hint="give --kind delta if it holds differences")
        option = "--kind delta scores it as it is" if stated else "or --kind delta if it is one"
        msg = f"{like}; give --kind expression, which subtracts the control{', ' if stated else ' ('}{option}{'' if stated else ')'}"
        raise PredictionError(msg)
    if stated is None:
        _refuse_counts(name, values, scale, hint="give --kind delta if it holds differences")
    some = [f"{share:.0%} of the predictions look like expression, not like a delta"] if share > 0 else []
    return Decided("delta", "file" if stated else "default", some)


def _resemblance(mean: FloatArray, control: FloatArray) -> tuple[float, float]:
    """Return (share of conditions whose mean resembles the control, median Pearson correlation with it)."""
    inner = (mean * control).sum(axis=1)
    own, other = np.square(mean).sum(axis=1), np.square(control).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = (inner > _LENGTH * other) & (inner > _COSINE * np.sqrt(own * other)) & (other > 0)
        a = mean - mean.mean(axis=1, keepdims=True)
        b = control - control.mean(axis=1, keepdims=True)
        pearson = (a * b).sum(axis=1) / np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    known = pearson[np.isfinite(pearson)]
    return float(alike.mean()), float(np.median(known)) if len(known) else float("nan")


def _stored(values: Any) -> FloatArray:
    data: FloatArray = values.data if sp.issparse(values) else values
    return data


def _share_below(values: Any) -> float:
    size = int(values.shape[0] * values.shape[1])
    return int(np.count_nonzero(_stored(values) < 0)) / max(size, 1)


def _check_expression(name: str, values: Any, scale: str, resembles: bool) -> None:
    """Refuse expression that is not in the scale of the data set, or that is not expression."""
    _refuse_counts(name, values, scale, hint="")
    below = _share_below(values)
    if below > _NEGATIVE and not resembles:
        msg = (
            f"{name} is declared as expression, but {below:.0%} of it is negative and it is unlike the control; "
            "differences to the control are --kind delta"
        )
        raise PredictionError(msg)


def _refuse_counts(name: str, values: Any, scale: str, *, hint: str) -> None:
    data = _stored(values)
    if not data.size or data.min() < 0:
        return
    high = float(data.max())
    whole = bool((data == np.rint(data)).all())
    # Whole numbers up to 2 can be rounded deltas.
    if high > _LOG1P_CEILING or (whole and high > 2):
        msg = (
            f"{name} looks like counts ({'whole numbers, ' if whole else ''}maximum {high:.6g}); the data set is scored in "
            f"{scale}: bring the prediction to that scale{'; ' + hint if hint else ''}"
        )
        raise PredictionError(msg)
