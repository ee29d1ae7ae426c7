"""Checks of what a model returns, whose failures name the model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ModelError
from perturbfm_core.schema import FloatArray

if TYPE_CHECKING:
    from perturbfm_core.data.prediction import OutOfFold

# Rows whose values are checked at a time, so that the check takes little memory.
_ROWS = 1024
# Rounding that `var_epistemic` may exceed `var` by.
_RELATIVE, _ABSOLUTE = 1e-3, 1e-6


def checked_mean(name: str, given: Any, shape: tuple[int, int]) -> FloatArray:
    """Return [C, G], the mean that `_mean` of a baseline gave, as it is.

    Parameters
    ----------
    name
        Name of the model.
    given
        What it gave.
    shape
        Conditions and genes asked for.

    Raises
    ------
    ModelError
        If it is no array of numbers of that shape, or a number is not finite as float32.
    """
    if given is None:
        msg = f"model {name!r}: _mean returned None; it must return the predicted delta of every condition"
        raise ModelError(msg)
    mean = np.asarray(given)
    _check_matrix(name, "_mean", "the mean", mean, shape)
    if not _finite(mean):
        raise ModelError(_not_finite(name))
    return mean


def check_prediction(name: str, given: Any, shape: tuple[int, int]) -> None:
    """Check what `_predict` gave.

    Parameters
    ----------
    name
        Name of the model.
    given
        What it gave.
    shape
        Conditions and genes asked for.

    Raises
    ------
    ModelError
        If it is no `Prediction`, a matrix is of another shape or not finite, a variance is negative,
        `var_epistemic` is larger than `var`, or another field is not what it should be.
    """
    if not isinstance(given, Prediction):
        msg = f"model {name!r}: _predict must return a Prediction, found {type(given).__name__}"
        raise ModelError(msg)
    for field in ("mean", "var", "var_epistemic"):
        values = getattr(given, field)
        if values is None and field == "var_epistemic":
            continue
        _check_matrix(name, "_predict", f"`{field}`", values, shape)
        if not _finite(values):
            raise ModelError(_not_finite(name))
        if field != "mean" and values.size and values.min() < 0:
            msg = f"model {name!r}: _predict gives a negative `{field}` ({values.min():g}); a variance is 0 or more"
            raise ModelError(msg)
    if given.var_epistemic is not None and _exceeds(given.var_epistemic, given.var):
        msg = f"model {name!r}: _predict gives a `var_epistemic` above `var`, of which it is a part"
        raise ModelError(msg)
    for field, wanted, fits in (
        ("not_predicted", f"bool [{shape[0]} conditions] or None", _is_mask(given.not_predicted, shape[0])),
        (
            "intervals",
            "the Intervals of these conditions and genes, or None",
            _are_of(given.intervals, shape),
        ),
        ("warnings", "a tuple of sentences", _are_sentences(given.warnings)),
    ):
        if not fits:
            found = getattr(given, field)
            shown = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else f"{found!r:.60}"
            msg = f"model {name!r}: `{field}` that _predict gives must be {wanted}, found {shown}"
            raise ModelError(msg)


def _is_mask(given: Any, n: int) -> bool:
    return given is None or (
        isinstance(given, np.ndarray) and given.shape == (n,) and given.dtype.kind == "b"
    )


def _are_of(given: Any, shape: tuple[int, int]) -> bool:
    return given is None or (
        isinstance(given, Intervals) and (given.factor.shape[1], len(given.gene_bin)) == shape
    )


def _are_sentences(given: Any) -> bool:
    return isinstance(given, tuple) and all(isinstance(text, str) for text in given)


def check_out_of_fold(name: str, oof: OutOfFold | None) -> None:
    """Check the predictions of held-out train conditions.

    Raises
    ------
    ModelError
        If a prediction is not finite, or a variance negative.
    """
    if oof is None:
        return
    mean, var = oof.prediction.mean, oof.prediction.var
    if not (_finite(mean) and _finite(var)):
        msg = (
            f"model {name!r} predicts values that are not finite (of held-out train conditions); check its "
            "parameters"
        )
        raise ModelError(msg)
    if var.size and var.min() < 0:
        msg = f"model {name!r}: the variance of held-out train conditions is negative ({var.min():g})"
        raise ModelError(msg)


def checked_arrays(name: str, given: Any) -> dict[str, FloatArray]:
    """Return the arrays of a fitted model, contiguous.

    Raises
    ------
    ModelError
        If they are no dictionary of arrays of numbers by text.
    """
    if not isinstance(given, dict):
        msg = f"model {name!r}: arrays() must return a dictionary, found {type(given).__name__}"
        raise ModelError(msg)
    out = {}
    for key, value in given.items():
        try:
            array = np.ascontiguousarray(value)
        except ValueError:
            array = np.empty(0, dtype=object)
        if not isinstance(key, str) or array.dtype.kind not in "fiub":
            msg = (
                f"model {name!r}: arrays() must return arrays of numbers by name, found {array.dtype} under {key!r}; "
                "text and other state belong into meta()"
            )
            raise ModelError(msg)
        out[key] = array
    return out


def checked_state(name: str, given: Any, what: str = "meta()") -> Any:
    """Return the state of a fitted model that is no array.

    Parameters
    ----------
    name
        Name of the model.
    given
        The state.
    what
        Where it comes from, for the message.

    Raises
    ------
    ModelError
        If it is no JSON, or holds a number that is not finite.
    """
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"model {name!r}: {what} must be plain JSON with finite numbers ({error}); arrays belong into arrays()"
        raise ModelError(msg) from error
    return given


def _check_matrix(name: str, method: str, what: str, given: Any, shape: tuple[int, int]) -> None:
    """Raise `ModelError` if `given` is no array of numbers of `shape` (conditions, genes)."""
    is_array = isinstance(given, np.ndarray)
    if is_array and given.shape == shape and given.dtype.kind in "fiu":
        return
    found = f"{given.dtype} {given.shape}" if is_array else type(given).__name__
    msg = (
        f"model {name!r}: {what} that {method} gives must be a float array [{shape[0]} conditions, {shape[1]} genes], "
        f"found {found}"
    )
    raise ModelError(msg)


def _not_finite(name: str) -> str:
    return f"model {name!r} predicts values that are not finite; check its parameters"


def _finite(values: FloatArray) -> bool:
    """Return whether all values are finite as float32, in which predictions are stored."""
    most = np.finfo(np.float32).max
    parts = (values[i : i + _ROWS] for i in range(0, len(values), _ROWS))
    return all(bool((np.abs(part) <= most).all()) for part in parts)


def _exceeds(part: FloatArray, whole: FloatArray) -> bool:
    rows = range(0, len(part), _ROWS)
    parts = ((part[i : i + _ROWS], whole[i : i + _ROWS] * (1 + _RELATIVE) + _ABSOLUTE) for i in rows)
    return any(bool((a > b).any()) for a, b in parts)
