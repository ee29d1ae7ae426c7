"""Deltas and variance of the conditions that a worker was asked for, from its output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

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
    record
        What is recorded of the fit: ``worker``, ``conversion`` and ``variance``.
    """

    mean: FloatArray
    var: FloatArray
    keys: list[str]
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
    notes = []
    for role in ("calibration", "validation"):
        mine = np.flatnonzero(request.roles == role)
        if len(mine):
            found, why = _others(raw, request.asked, mine, control)
            mean[mine], there[mine] = found
            notes += [f"{role}: {w}" for w in why]
    var, about = _variance(view, ahead, mean, there, constant_variance)
    if main.var is not None:
        var = np.tile(var, (len(mean), 1))
        var[tested] = np.maximum(main.var, _VAR_FLOOR)
        about = {**about, "source": f"the model's own, of other conditions: {about['source']}"}
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
    return Fitted(mean, var.astype(np.float32), keys, record)


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
    raw: Raw, asked: Asked, mine: IntArray, control: ControlOf
) -> tuple[tuple[FloatArray, BoolArray], list[str]]:
    """Return (deltas, which are there) of conditions that are not tested, and why some are not."""
    try:
        found = convert(raw, _part(asked, mine), control=control, missing="control", degenerate="flag")
    except PredictionError as error:
        none = np.zeros((len(mine), len(asked.genes)), dtype=np.float32)
        return (none, np.zeros(len(mine), dtype=np.bool_)), [str(error)]
    return (found.mean, ~found.missing), found.warnings


def _variance(
    view: TrainView, ahead: Ahead, mean: FloatArray, there: BoolArray, constant: float
) -> tuple[FloatArray, dict[str, Any]]:
    """Return float [1, G], the variance per gene, and where it comes from."""
    keys = ahead.request.asked.conditions.index
    source, (at, truth) = "calibration conditions", ahead.calibration
    if not there[at].any():
        held = view if view.validation is None else view.validation
        at = np.flatnonzero(ahead.request.roles == "validation")
        truth = held.delta[held.conditions.index.get_indexer(keys[at])]
        source = "validation conditions, which may have stopped the training"
    used = there[at]
    if not used.any():
        value = np.full((1, mean.shape[1]), constant)
        return value, {"source": "a declared constant", "value": constant, "conditions": 0}
    squares = (truth[used].astype(np.float64) - mean[at][used]) ** 2
    per_gene, n = squares.mean(axis=0), len(squares)
    # Few conditions say little of one gene: towards the mean over genes.
    shrunk = (n * per_gene + _SHRINK_CONDITIONS * per_gene.mean()) / (n + _SHRINK_CONDITIONS)
    return np.maximum(shrunk, _VAR_FLOOR)[None], {"source": source, "conditions": n}
