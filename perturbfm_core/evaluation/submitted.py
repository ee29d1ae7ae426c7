"""Predictions made elsewhere, brought to the form that is scored: one delta per test condition, and cells if there are some."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from perturbfm_core.data import prediction_kind
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import RowPrediction, scored_as_control
from perturbfm_core.data.prediction_files import PredictionTable
from perturbfm_core.data.prediction_labels import LabelColumns
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.alignment import (
    averaged,
    averaged_intervals,
    gene_columns,
    row_lookup,
)
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.evaluation.prediction_flags import warnings_of
from perturbfm_core.evaluation.prediction_flags_variance import warnings_of_variance
from perturbfm_core.evaluation.submitted_cells import Rows, predicted_cells
from perturbfm_core.evaluation.submitted_rows import (
    check_values,
    conditions_left_out,
    rows_of_prediction,
    rows_of_table,
)
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.checks import delta_warnings
from perturbfm_core.external.delta_checks import check_scaled
from perturbfm_core.external.spaces import COUNTS, LOG1P
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, PredictionKind
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query

Missing = Literal["refuse", "control"]


@dataclass(frozen=True, eq=False)
class Submitted:
    """A prediction ready to be scored.

    Attributes
    ----------
    prediction
        Deltas by row of the data set, with the predicted cells if there are some.
    notes
        What was counted and decided: ``kind``, conditions that are missing, not asked for, unknown, and so on.
    warnings
        Sentences that every reader of the scores must see.
    """

    prediction: RowPrediction
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def submitted(
    ds: PerturbDataset,
    split: FrozenSplit,
    given: RowPrediction | PredictionTable,
    side: ObservedSide,
    *,
    kind: PredictionKind | None = None,
    missing: Missing = "refuse",
    columns: LabelColumns | None = None,
) -> Submitted:
    """Bring a prediction to the form that is scored.

    Parameters
    ----------
    ds, split
        Data and split.
    given
        What was read from a file.
    side
        The observed side of the split.
    kind
        What its numbers are; by default what the file says, else recognised.
    missing
        What is done about test conditions that it lacks: ``refuse``, or take their ``control`` (a delta of 0).
    columns
        Names of label columns, as far as they are given.

    Raises
    ------
    PredictionError
        If it does not cover, or does not belong to, the split, or its numbers do not look like what they are
        said to be.
    """
    notes: dict[str, Any] = {}
    # What a run, or a conversion, that wrote the file had to say of it.
    warnings: list[str] = [*given.warnings] if isinstance(given, RowPrediction) else []
    if isinstance(given, PredictionTable):
        columns = columns or LabelColumns()
        rows, base = rows_of_table(
            ds, split, given, side, columns, notes, warnings, declared=kind is not None
        )
    else:
        rows, base = rows_of_prediction(ds, split, given, side), given
    C = len(side.conditions)
    absent = np.bincount(rows.code, minlength=C) == 0
    left_out = conditions_left_out(ds, given, side)
    _check_coverage(given, side, absent, left_out, missing, notes.get("unknown", []))
    if replaced := int((absent | left_out).sum()):
        notes["missing_as_control"] = replaced
        warnings.append(scored_as_control(replaced, C))
    check_values(rows, side)
    mean = rows.average(rows.X, C)
    present = np.flatnonzero(~absent & ~left_out)
    name = _name(given)
    decided = _decide(ds, side, given, rows, base, mean, present, kind)
    notes["kind"], notes["kind_from"] = decided.kind, decided.source
    if rows.counts is not None:
        notes["kind"], notes["kind_from"] = "counts", "recognised"
    warnings += decided.warnings
    warnings += prediction_kind.check_control_rows(name, rows.controls, mean[present], decided)
    delta = mean - (0.0 if decided.kind == "delta" else np.asarray(side.input_control))
    if decided.kind == "delta" and _is_log1p(ds):
        # Of all rows: means of conditions are no longer of the same size.
        every = given.values if isinstance(given, PredictionTable) else given.mean
        warnings += check_scaled(name, every, _scale(ds))
    cells, cut = predicted_cells(ds, side, rows, decided.kind)
    warnings += delta_warnings(
        delta[present],
        Asked.of(ds, Query(side.conditions, ds.genes, side.input_control)),
        present,
        given_as_delta=decided.kind == "delta",
        of_cells=rows.counts is None,
        n_cells=None if cells is None else np.bincount(rows.code, minlength=C)[present],
    )
    if cells is not None and cut:
        notes["cell_values_cut_at_0"] = cut
    if cells is None and len(rows.code) > int((~absent).sum()):
        notes["rows_averaged"] = len(rows.code)
    warnings += warnings_of(ds, side, delta, present, cells)
    changed = decided.kind == "expression" or bool(absent.any())
    out = _prediction(ds, split, side, rows, base, delta, absent | left_out, changed=changed)
    if rows.var is not None:
        warnings += warnings_of_variance(rows.var, out.intervals, side.s2)
    warnings = [*dict.fromkeys(warnings)]
    out = replace(out, kind="delta", cells=cells, warnings=tuple(warnings))
    return Submitted(out, notes, warnings)


def _check_coverage(
    given: RowPrediction | PredictionTable,
    side: ObservedSide,
    absent: BoolArray,
    left_out: BoolArray,
    missing: Missing,
    unknown: list[str],
) -> None:
    """Refuse a prediction of no test condition, and one that lacks some if `missing` says so.

    Parameters
    ----------
    given, side
        What was read from a file, and the observed side of the split.
    absent, left_out
        bool [C], conditions without a row, and those of which the file says that it has none.
    missing
        What is done about conditions without a row.
    unknown
        Conditions of the file that the data set does not have.
    """
    C = len(side.conditions)
    lacking = side.conditions.index[absent].tolist()
    strange = f"; the file has conditions unknown to the data set, e.g. {unknown[:3]}" if unknown else ""
    if absent.all() and isinstance(given, PredictionTable):
        msg = f"prediction has none of the {C} test conditions, e.g. {lacking[:3]}{strange}"
        raise PredictionError(msg)
    if lacking and (missing == "refuse" or absent.all()):
        test = int(np.isin(side.codes, np.flatnonzero(absent)).sum())
        msg = (
            f"prediction lacks {test} of {len(side.rows)} test rows, in {len(lacking)} of {C} conditions, {lacking[:3]}; "
            f"predict them all, or give --missing control to score their control instead{strange}"
        )
        raise PredictionError(msg)
    if left_out.all():
        msg = f"prediction says of all {C} test conditions that it has none; predict some of them"
        raise PredictionError(msg)


def _decide(
    ds: PerturbDataset,
    side: ObservedSide,
    given: RowPrediction | PredictionTable,
    rows: Rows,
    base: RowPrediction,
    mean: FloatArray,
    present: IntArray,
    asked: PredictionKind | None,
) -> prediction_kind.Decided:
    """Return whether the numbers are deltas or expression: as asked for, as the file says, else as recognised.

    Parameters
    ----------
    ds, side
        Data, and the observed side of the split.
    given, rows, base
        What was read from a file, its rows of test conditions, and what it declares.
    mean, present
        float64 [C, G], means of conditions, and the numbers of those that are predicted.
    asked
        What the user says that they are, if anything.
    """
    return prediction_kind.decide(
        name=_name(given),
        values=rows.X,
        mean=mean[present],
        control=None if side.input_control is None else side.input_control[present],
        asked=asked,
        # Counts were brought to the scale of the data set.
        stated=base.kind if rows.counts is None else "expression",
        by_convention=isinstance(given, PredictionTable) and given.by_convention,
        of_run=None not in (base.split_hash, base.control),
        scale=_scale(ds),
        log1p=_is_log1p(ds),
    )


def _name(given: RowPrediction | PredictionTable) -> str:
    """Return what messages call the numbers of a prediction."""
    if isinstance(given, PredictionTable):
        return f"the matrix of {given.source.name}"
    return "mean of the prediction"


def _is_log1p(ds: PerturbDataset) -> bool:
    """Return whether a data set is scored in log1p units."""
    return ds.metadata.space in (LOG1P, COUNTS)


def _scale(ds: PerturbDataset) -> str:
    """Return the scale that a data set is scored in, in words."""
    if ds.metadata.normalization is not None:
        return f"log1p of counts scaled to {ds.metadata.normalization.target_sum:g} per cell"
    return "log1p expression" if ds.metadata.space in ("log1p", "counts") else ds.metadata.space


def _prediction(
    ds: PerturbDataset,
    split: FrozenSplit,
    side: ObservedSide,
    rows: Rows,
    base: RowPrediction,
    delta: FloatArray,
    absent: Any,
    *,
    changed: bool,
) -> RowPrediction:
    """Return the prediction as deltas: as it is where nothing changes, else one row per condition."""
    by_row = len(base.idx) > 0
    if by_row and not changed:
        return base
    C = len(side.conditions)
    mean = np.where(absent[:, None], 0.0, delta).astype(np.float32)
    var = np.ones_like(mean)
    if rows.var is not None:
        var = rows.average(rows.var, C).astype(np.float32)
        var[absent] = var[~absent].mean(axis=0)
    named = base.row_id is not None if by_row else True
    intervals: Intervals | None = None
    epistemic: FloatArray | None = None
    if by_row:
        columns, _ = gene_columns(ds, base.genes, base.mean.shape[1])
        source = np.maximum(row_lookup(ds, base)[side.rows], 0)
        if base.var_epistemic is not None:
            epistemic = averaged(base.var_epistemic, source, side.codes, C).astype(np.float32)
            epistemic = epistemic if columns is None else epistemic[:, columns]
            epistemic[absent] = epistemic[~absent].mean(axis=0)
        intervals = averaged_intervals(base.intervals, source, side.codes, C, columns)
        if intervals is not None and absent.any():
            intervals = intervals.without(absent)
    return RowPrediction(
        mean=mean,
        var=var,
        idx=side.rows,
        row=side.codes,
        genes=ds.genes if base.genes is not None else None,
        row_id=ds.row_ids[side.rows] if named else None,
        split_hash=base.split_hash,
        data_content_sha256=base.data_content_sha256,
        space=base.space,
        control=base.control,
        var_epistemic=epistemic,
        var_filled=rows.var is None,
        intervals=intervals,
        condition=np.asarray([str(k) for k in side.conditions.index], dtype=np.str_),
        not_predicted=np.asarray(absent, dtype=np.bool_) if absent.any() else None,
    )
