"""Residuals for calibration, of conditions that the predicting model was not fitted on.

There are two sources: the inner folds of the training conditions, predicted by models that each leave one
fold out, and the split's calibration fold, predicted by the final model. Neither uses test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.split import FrozenSplit, Unit, units_of
from perturbfm_core.splits.view import Query, TrainView, query

Part = tuple[BoolArray, BoolArray, Prediction]


def out_of_fold(view: TrainView, parts: Sequence[Part]) -> OutOfFold | None:
    """Collect the predictions of all inner folds; return None if there are none.

    Conditions that a fold's model does not predict are left out.

    Parameters
    ----------
    view
        The training view that the inner folds belong to.
    parts
        (seen, held, prediction) of each fold: bool [n] masks over the view's conditions, of those that the
        fold's model was fitted or early-stopped on and of those that it predicts; the prediction has the
        latter in order.
    """
    parts = [part for given in parts if len((part := _predicted(*given))[2].mean)]
    if not parts:
        return None
    epistemic = [p.var_epistemic for *_, p in parts]
    joined = Prediction(
        mean=np.concatenate([p.mean for *_, p in parts]).astype(np.float32, copy=False),
        var=np.concatenate([p.var for *_, p in parts]).astype(np.float32, copy=False),
        var_epistemic=None
        if any(e is None for e in epistemic)
        else np.concatenate([e for e in epistemic if e is not None]).astype(np.float32, copy=False),
    )
    return joined_out_of_fold(view, [(seen, held) for seen, held, _ in parts], joined)


def _predicted(seen: BoolArray, held: BoolArray, prediction: Prediction) -> Part:
    """Return a part without the conditions that have no prediction.

    Parameters
    ----------
    seen, held, prediction
        A part, as of `out_of_fold`.
    """
    absent = prediction.not_predicted
    if absent is None:
        return seen, held, prediction
    # The control that stands in for a prediction says nothing of the model's errors.
    kept = held.copy()
    kept[np.flatnonzero(held)[absent]] = False
    return seen, kept, prediction.rows(np.flatnonzero(~absent))


def joined_out_of_fold(
    view: TrainView, folds: Sequence[tuple[BoolArray, BoolArray]], prediction: Prediction
) -> OutOfFold:
    """Describe the predictions of all inner folds, of which there is one at least.

    Parameters
    ----------
    view
        The training view that the inner folds belong to.
    folds
        (seen, held) of each fold, as of `out_of_fold`.
    prediction
        Rows of the held-out conditions, fold by fold.
    """
    units: list[tuple[str, ...]] = []
    kinds = []
    for seen, held in folds:
        kind, mine = new_units(view.conditions[held], view.conditions[seen], view.unit)
        kinds.append(kind)
        units += mine
    rows = np.concatenate([np.flatnonzero(held) for _, held in folds])
    return _OfView.of(
        view.delta,
        rows,
        conditions=view.conditions.iloc[rows],
        prediction=prediction,
        units=units,
        fold=np.repeat(np.arange(len(folds)), [int(held.sum()) for _, held in folds]),
        source="out_of_fold",
        # If the folds needed different kinds of units, the condition is declared as the unit of all.
        unit=kinds[0] if len(set(kinds)) == 1 else "condition",
        fitted=tuple(frozenset(view.conditions.index[seen].astype(str)) for seen, _ in folds),
    )


class _OfView(OutOfFold):
    """Predictions of a view's conditions, whose truth is copied from the view when it is first read.

    At ten thousand conditions it takes hundreds of megabytes, which a fit need not hold beside its own matrices.
    """

    _delta: FloatArray
    _rows: IntArray

    @classmethod
    def of(cls, delta: FloatArray, rows: IntArray, **fields: Any) -> _OfView:
        """Return predictions of the rows of `delta`; `fields` are all but the truth."""
        unread = np.broadcast_to(np.float32(0), (len(rows), delta.shape[1]))
        made = cls(truth=unread, **fields)
        # Frozen: attributes are set past the class's own way.
        vars(made).update(_delta=delta, _rows=rows)
        del vars(made)["truth"]
        return made

    def __getattr__(self, name: str) -> FloatArray:
        # Called for what is not there yet.
        if name != "truth":
            raise AttributeError(name)
        truth = self._delta[self._rows].astype(np.float32, copy=False)
        vars(self)["truth"] = truth
        return truth


def calibration_fold(
    ds: PerturbDataset, split: FrozenSplit, view: TrainView, predict: Callable[[Query], Prediction]
) -> OutOfFold:
    """Return the final model's predictions of the split's calibration fold, as far as it predicts its conditions.

    Parameters
    ----------
    ds
        The data set of the split.
    split
        The split.
    view
        Training view that the model was fitted on.
    predict
        Function that returns the model's prediction for a query.

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
    # Validation conditions count as seen, since the model may have been stopped early on them.
    if view.validation is not None:
        seen = pd.concat([seen, view.validation.conditions])
    kind, units = new_units(table.conditions, seen, split.definition.unit)
    prediction = predict(query(ds, table))
    # The control that stands in for a prediction says nothing of the model's errors.
    absent = prediction.not_predicted
    there = np.arange(len(table)) if absent is None else np.flatnonzero(~absent)
    return OutOfFold(
        conditions=table.conditions.iloc[there],
        truth=table.delta["input"][there],
        prediction=prediction.rows(there),
        units=[units[i] for i in there],
        fold=np.zeros(len(there), dtype=np.int64),
        source="calibration_fold",
        unit=kind,
        fitted=(frozenset(seen.index.astype(str)),),
    )


def as_scored(ds: PerturbDataset, split: FrozenSplit, residuals: OutOfFold) -> OutOfFold:
    """Return residuals whose truth is the scored delta, against *reference* instead of input controls.

    A model is fitted to deltas against input controls, including the sampling noise of these controls. Its
    residuals against the same controls therefore lack that noise, while scored residuals have it and the
    noise of the reference controls as well. Intervals for scored deltas must be calibrated on residuals of
    the same kind. Only training and calibration conditions and the controls of their contexts are read, and
    only the widths of intervals depend on them.

    Parameters
    ----------
    ds
        The data set of the split.
    split
        The split.
    residuals
        Predictions with truth against input controls.

    Raises
    ------
    SplitError
        If a condition is neither in the folds fitted on nor, for a calibration fold, in that fold.
    """
    if not ds.has_controls:
        return residuals
    folds = ("calib",) if residuals.source == "calibration_fold" else split.fit_folds
    table = condition_table(ds, split.rows(ds, *folds))
    # get_indexer returns -1 for conditions that the table does not have.
    position = table.conditions.index.get_indexer(residuals.conditions.index)
    if (position < 0).any():
        name = str(residuals.conditions.index[int(np.flatnonzero(position < 0)[0])])
        msg = f"residuals name conditions that split {split.hash[:12]} neither fits nor calibrates on, e.g. {name!r}"
        raise SplitError(msg)
    return replace(residuals, truth=table.delta["reference"][position])


def new_units(held: pd.DataFrame, seen: pd.DataFrame, unit: Unit) -> tuple[Unit, list[tuple[str, ...]]]:
    """Return (kind of unit, for each held-out condition those of its units that no seen condition has).

    The kind is the split's own unit unless some held-out condition has no new unit of that kind (for example
    where a single training context made inner folds by context impossible). Then it is the perturbation, and
    if that is not new either (random rows), the condition.

    Parameters
    ----------
    held
        Table of the conditions that are predicted.
    seen
        Table of the conditions that the model was fitted or early-stopped on.
    unit
        Exchangeable unit of the split.
    """
    # In order of preference; dict.fromkeys drops repetitions.
    kinds: tuple[Unit, ...] = (unit, "perturbation", "condition")
    for kind in dict.fromkeys(kinds):
        known = {u for us in units_of(seen, kind) for u in us}
        new = [tuple(sorted(set(us) - known)) for us in units_of(held, kind)]
        if new and all(new):
            return kind, new
    return "condition", units_of(held, "condition")
