"""Deltas and variance of the conditions that a worker was asked for, from its output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perturbfm_core.data.prediction import scored_as_control
from perturbfm_core.errors import PredictionError
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.conversion import Converted, convert
from perturbfm_core.external.raw import Raw, read_raw
from perturbfm_core.external.refusals import ControlOf, Degenerate, Missing
from perturbfm_core.external.request import Ahead
from perturbfm_core.external.work import COST_FILE, Worker, raw_output
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.view import TrainView
from perturbfm_core.store.atomic import read_json

_VAR_FLOOR = 1e-6
_SHRINK_CONDITIONS = 5.0


@dataclass(frozen=True, eq=False)
class Fitted:
    """Predictions of all conditions asked for.

    Attributes
    ----------
    mean
        float32 [C, G], deltas in log1p units.
    var
        float32 [C, G], or [1, G] where it is the same for all conditions.
    keys
        Condition of each row.
    missing
        bool [C], conditions without a prediction, whose delta is 0.
    record
        What is recorded of the fit: ``worker``, ``conversion`` and ``variance``.
    """

    mean: FloatArray
    var: FloatArray
    keys: list[str]
    missing: BoolArray
    record: dict[str, Any]


def converted(
    worker: Worker,
    view: TrainView,
    ahead: Ahead,
    *,
    model: str,
    seed: int,
    control: ControlOf = "real",
    missing: Missing = "refuse",
    degenerate: Degenerate = "refuse",
    constant_variance: float,
) -> Fitted:
    """Run a worker, or find its output, and convert it.

    Test conditions decide whether the output is taken; of calibration and validation conditions, those that are
    predicted are used.

    Parameters
    ----------
    worker
        The worker.
    view
        The train view.
    ahead
        The request, and where the work is kept.
    model, seed
        Name of the model, and seed of everything random.
    control, missing, degenerate
        As in `convert`, for the test conditions.
    constant_variance
        The variance where no condition is held out to fit it on.

    Raises
    ------
    ExternalError, PredictionError
        If the worker fails, or its output is refused.
    """
    made = raw_output(worker, view, ahead, model=model, seed=seed)
    raw, request = read_raw(made.path), ahead.request
    tested = request.roles == "test"
    main = convert(raw, _part(request.asked, tested), control=control, missing=missing, degenerate=degenerate)
    for warning in main.warnings:
        ahead.tell(f"warning: {model}: {warning}")
    mean = np.zeros((len(request.asked), len(request.asked.genes)), dtype=np.float32)
    mean[tested] = main.mean
    there = np.zeros(len(mean), dtype=np.bool_)
    there[tested] = ~main.missing
    notes: list[str] = []
    own = None if main.var is None else np.zeros_like(mean)
    if own is not None:
        own[tested] = main.var
    for role in ("calibration", "validation"):
        mine = np.flatnonzero(request.roles == role)
        if len(mine):
            found, there[mine], why = _others(raw, request.asked, mine, control, degenerate)
            notes += [f"{role}: {w}" for w in why]
            if found is not None:
                mean[mine] = found.mean
                if own is not None and found.var is not None:
                    own[mine] = found.var
    mean[~there] = 0.0
    if own is None:
        var, about = _variance(view, ahead, mean, there, constant_variance)
    else:
        var = np.maximum(own, _VAR_FLOOR)
        about = {"source": "the model's own", "conditions": 0, "of_calibration_fold": False}
    record = {
        "worker": {
            "output": made.key,
            **worker.identity(),
            **read_json(made.path / COST_FILE),
            "versions": raw.meta.get("versions"),
        },
        "conversion": _recorded(main, [*main.notes, *notes]),
        "variance": about,
    }
    keys = [str(k) for k in request.asked.conditions.index]
    return Fitted(mean, var.astype(np.float32), keys, ~there, record)


def _recorded(main: Converted, notes: list[str]) -> dict[str, Any]:
    return {
        "control": main.control,
        "other_control": None if main.variant is None else "model" if main.control == "real" else "real",
        "counts": main.counts,
        "warnings": main.warnings,
        "notes": notes,
    }


def _part(asked: Asked, chosen: BoolArray | IntArray) -> Asked:
    return replace(
        asked,
        conditions=asked.conditions.iloc[np.arange(len(asked))[chosen]],
        control=None if asked.control is None else asked.control[chosen],
    )


def _others(
    raw: Raw, asked: Asked, mine: IntArray, control: ControlOf, degenerate: Degenerate
) -> tuple[Converted | None, BoolArray, list[str]]:
    """Return (what conditions that are not tested become, which are predicted, and what is to be said of them).

    Parameters
    ----------
    raw, asked, mine
        Output, everything that was asked for, and the places of these conditions there.
    control, degenerate
        As of the test conditions: where an answer that is the same for several, or the control, would be refused of
        these, it is no prediction here either.
    """
    try:
        found = convert(raw, _part(asked, mine), control=control, missing="control", degenerate="flag")
    except PredictionError as error:
        return None, np.zeros(len(mine), dtype=np.bool_), [str(error)]
    there = ~found.missing if degenerate == "flag" else ~(found.missing | found.degenerate)
    said = [w for w in found.warnings if w != scored_as_control(found.counts["missing"], len(mine))]
    left = [] if there.all() else [f"{int((~there).sum())} of {len(mine)} conditions have no prediction"]
    return found, there, [*said, *left]


def _variance(
    view: TrainView, ahead: Ahead, mean: FloatArray, there: BoolArray, constant: float
) -> tuple[FloatArray, dict[str, Any]]:
    """Return float [1, G], the variance per gene, and where it comes from."""
    keys = ahead.request.asked.conditions.index
    source, (at, truth) = "calibration conditions", ahead.calibration
    of_fold = bool(there[at].any())
    if not of_fold:
        held = view if view.validation is None else view.validation
        at = np.flatnonzero(ahead.request.roles == "validation")
        truth = held.delta[held.conditions.index.get_indexer(keys[at])]
        source = "validation conditions, which may have stopped the training"
    used = there[at]
    if not used.any():
        value = np.full((1, mean.shape[1]), constant)
        return value, {
            "source": "a declared constant",
            "value": constant,
            "conditions": 0,
            "of_calibration_fold": False,
        }
    squares = (truth[used].astype(np.float64) - mean[at][used]) ** 2
    per_gene, n = squares.mean(axis=0), len(squares)
    # Few conditions say little of one gene: towards the mean over genes.
    shrunk = (n * per_gene + _SHRINK_CONDITIONS * per_gene.mean()) / (n + _SHRINK_CONDITIONS)
    return np.maximum(shrunk, _VAR_FLOOR)[None], {
        "source": source,
        "conditions": n,
        "of_calibration_fold": of_fold,
    }
