"""Residuals that may serve calibration: of conditions that their predictor never saw.

Two sources: the inner folds of train, predicted by models that each leave one fold out, and the split's
calibration fold, predicted by the final model. Test rows are reached by neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import BoolArray
from perturbfm_core.splits.split import FrozenSplit, Unit, units_of
from perturbfm_core.splits.view import Query, TrainView, query

Part = tuple[BoolArray, BoolArray, Prediction]


def out_of_fold(view: TrainView, parts: Sequence[Part]) -> OutOfFold | None:
    """Gather the predictions of inner folds.

    Parameters
    ----------
    view
        The view whose inner folds they are.
    parts
        (seen, held, prediction) of each fold: masks [n] over the view's conditions that the fold's predictor
        was fitted or stopped on, and of those that it predicts, in order.

    Returns
    -------
    None if there are no parts.
    """
    if not parts:
        return None
    units: list[tuple[str, ...]] = []
    kinds = []
    for seen, held, _ in parts:
        kind, mine = new_units(view.conditions[held], view.conditions[seen], view.unit)
        kinds.append(kind)
        units += mine
    epistemic = [p.var_epistemic for *_, p in parts]
    return OutOfFold(
        conditions=pd.concat([view.conditions[held] for _, held, _ in parts]),
        truth=np.concatenate([view.delta[held] for _, held, _ in parts]).astype(np.float32),
        prediction=Prediction(
            mean=np.concatenate([p.mean for *_, p in parts]).astype(np.float32),
            var=np.concatenate([p.var for *_, p in parts]).astype(np.float32),
            var_epistemic=None
            if any(e is None for e in epistemic)
            else np.concatenate([e for e in epistemic if e is not None]).astype(np.float32),
        ),
        units=units,
        fold=np.repeat(np.arange(len(parts)), [int(held.sum()) for _, held, _ in parts]),
        source="out_of_fold",
        unit=kinds[0] if len(set(kinds)) == 1 else "condition",
        fitted=tuple(frozenset(view.conditions.index[seen].astype(str)) for seen, *_ in parts),
    )


def calibration_fold(
    ds: PerturbDataset, split: FrozenSplit, view: TrainView, predict: Callable[[Query], Prediction]
) -> OutOfFold:
    """Return what the final model, fitted on `view`, says of the split's calibration fold.

    Raises
    ------
    SplitError
        If the split has no calibration fold.
    """
    rows = split.rows(ds, "calib")
    if not len(rows):
        msg = f"split {split.hash[:12]} has no calibration fold; its calibration is {split.definition.calibration!r}"
        raise SplitError(msg)
    table = condition_table(ds, rows)
    seen = view.conditions
    if view.validation is not None:
        seen = pd.concat([seen, view.validation.conditions])
    kind, units = new_units(table.conditions, seen, split.definition.unit)
    return OutOfFold(
        conditions=table.conditions,
        truth=table.delta["input"],
        prediction=predict(query(ds, split, table)),
        units=units,
        fold=np.zeros(len(table), dtype=np.int64),
        source="calibration_fold",
        unit=kind,
        fitted=(frozenset(seen.index.astype(str)),),
    )


def as_scored(ds: PerturbDataset, split: FrozenSplit, residuals: OutOfFold) -> OutOfFold:
    """Return residuals of the truth that scores have: mean of the cells minus that of their *reference* controls.

    A model learns from deltas against input controls, and their sampling noise along with them: its residuals
    against the same controls lack that noise, those of scores have it, and that of the reference controls
    besides. Intervals that are to cover scored deltas must be calibrated on such. Only the contexts of train
    and calibration conditions are read, and only the width of intervals depends on it.
    """
    if not ds.has_controls:
        return residuals
    folds = ("calib",) if residuals.source == "calibration_fold" else split.fit_folds
    table = condition_table(ds, split.rows(ds, *folds))
    position = table.conditions.index.get_indexer(residuals.conditions.index)
    if (position < 0).any():
        name = str(residuals.conditions.index[int(np.flatnonzero(position < 0)[0])])
        msg = f"residuals name conditions that split {split.hash[:12]} neither fits nor calibrates on, e.g. {name!r}"
        raise SplitError(msg)
    return replace(residuals, truth=table.delta["reference"][position])


def new_units(held: pd.DataFrame, seen: pd.DataFrame, unit: Unit) -> tuple[Unit, list[tuple[str, ...]]]:
    """Return the kind of unit, and for each held condition those of its units that no seen condition has.

    The split's own unit serves unless inner folds could not keep it whole (a single train context); then it is
    the perturbation, and where nothing is new at all (random rows) the condition.
    """
    kinds: tuple[Unit, ...] = (unit, "perturbation", "condition")
    for kind in dict.fromkeys(kinds):
        known = {u for us in units_of(seen, kind) for u in us}
        new = [tuple(sorted(set(us) - known)) for us in units_of(held, kind)]
        if new and all(new):
            return kind, new
    return "condition", units_of(held, "condition")
