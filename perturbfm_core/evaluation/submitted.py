"""Predictions made elsewhere, brought to the form that is scored: one delta per test condition, and cells if there are some."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data import prediction_kind
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import RowPrediction, scored_as_control
from perturbfm_core.data.prediction_conditions import CONTROL_ROW, UNKNOWN
from perturbfm_core.data.prediction_files import PredictionTable
from perturbfm_core.data.prediction_labels import LabelColumns, match_rows
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.alignment import (
    averaged,
    averaged_intervals,
    check_origin,
    gene_columns,
    row_lookup,
)
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.evaluation.prediction_flags import warnings_of
from perturbfm_core.evaluation.prediction_flags_variance import warnings_of_variance
from perturbfm_core.evaluation.submitted_cells import FEWEST, Rows, predicted_cells
from perturbfm_core.evaluation.submitted_counts import compare_controls, counts_of
from perturbfm_core.external.asked import Asked
from perturbfm_core.external.checks import delta_warnings
from perturbfm_core.external.delta_checks import check_scaled
from perturbfm_core.external.spaces import COUNTS, LOG1P
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, PredictionKind
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query

Missing = Literal["refuse", "control"]
# So many control rows of a file are looked at.
_CONTROLS = 500


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
        rows, base = _of_table(
            ds, split, given, side, columns or LabelColumns(), notes, warnings, declared=kind is not None
        )
        name = f"the matrix of {given.source.name}"
    else:
        rows, base = _of_rows(ds, split, given, side), given
        name = "mean of the prediction"
    C = len(side.conditions)
    absent = np.bincount(rows.code, minlength=C) == 0
    left_out = _left_out(ds, given, side)
    lacking = side.conditions.index[absent].tolist()
    strange = (
        f"; the file has conditions unknown to the data set, e.g. {notes['unknown'][:3]}"
        if "unknown" in notes
        else ""
    )
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
    if replaced := int((absent | left_out).sum()):
        notes["missing_as_control"] = replaced
        warnings.append(scored_as_control(replaced, C))
    _check_finite(rows, side)
    mean = rows.average(rows.X, C)
    present = np.flatnonzero(~absent & ~left_out)
    log1p = ds.metadata.space in (LOG1P, COUNTS)
    decided = prediction_kind.decide(
        name=name,
        values=rows.X,
        mean=mean[present],
        control=None if side.input_control is None else side.input_control[present],
        asked=kind,
        # Counts were brought to the scale of the data set.
        stated=base.kind if rows.counts is None else "expression",
        by_convention=isinstance(given, PredictionTable) and given.by_convention,
        of_run=None not in (base.split_hash, base.control),
        scale=_scale(ds),
        log1p=log1p,
    )
    notes["kind"], notes["kind_from"] = decided.kind, decided.source
    if rows.counts is not None:
        notes["kind"], notes["kind_from"] = "counts", "recognised"
    warnings += decided.warnings
    warnings += prediction_kind.check_control_rows(name, rows.controls, mean[present], decided)
    delta = mean - (0.0 if decided.kind == "delta" else np.asarray(side.input_control))
    if decided.kind == "delta" and log1p:
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
    changed = decided.kind == "expression" or bool(lacking)
    out = _prediction(ds, split, side, rows, base, delta, absent | left_out, changed=changed)
    if rows.var is not None:
        warnings += warnings_of_variance(rows.var, out.intervals, side.s2)
    warnings = [*dict.fromkeys(warnings)]
    out = replace(out, kind="delta", cells=cells, warnings=tuple(warnings))
    return Submitted(out, notes, warnings)


# ---- rows of either form -----------------------------------------------------------------------------------


def _of_rows(ds: PerturbDataset, split: FrozenSplit, given: RowPrediction, side: ObservedSide) -> Rows:
    """Return the distinct predicted rows of a prediction by data set row."""
    check_origin(ds, split, given)
    columns, _ = gene_columns(ds, given.genes, given.mean.shape[1])
    source = row_lookup(ds, given)[side.rows]
    known = source >= 0
    partly = np.intersect1d(side.codes[known], side.codes[~known])
    if len(partly):
        names = side.conditions.index[partly].tolist()
        msg = (
            f"prediction lacks {int((~known).sum())} of {len(side.rows)} test rows, in conditions {names[:3]} that it has "
            "other rows of; predict all rows of a condition, or one mean per condition"
        )
        raise PredictionError(msg)
    pairs = side.codes[known] * np.int64(max(len(given.mean), 1)) + source[known]
    _, first, count = np.unique(pairs, return_index=True, return_counts=True)
    chosen = source[known][first]
    X = given.mean[chosen] if columns is None else given.mean[np.ix_(chosen, columns)]
    var = None
    if not given.var_filled:
        var = given.var[chosen] if columns is None else given.var[np.ix_(chosen, columns)]
    return Rows(X, side.codes[known][first], count.astype(np.float64), var, side.rows[known][first])


def _of_table(
    ds: PerturbDataset,
    split: FrozenSplit,
    given: PredictionTable,
    side: ObservedSide,
    columns: LabelColumns,
    notes: dict[str, Any],
    warnings: list[str],
    *,
    declared: bool,
) -> tuple[Rows, RowPrediction]:
    """Return the rows of test conditions, and what the file declares as an empty prediction."""
    # Genes that are not measured may be there, and even twice.
    asked = np.flatnonzero(np.isin(given.genes, ds.genes))
    used, by_name = gene_columns(ds, given.genes[asked], len(asked))
    used = asked if used is None else asked[used]
    base = RowPrediction(
        mean=np.empty((0, ds.n_genes), dtype=np.float32),
        var=np.empty((0, ds.n_genes), dtype=np.float32),
        idx=np.empty(0, dtype=np.int64),
        genes=ds.genes if by_name else None,
        var_filled=given.var is None,
        kind=given.kind,
        split_hash=given.stated.get("split_hash"),
        data_content_sha256=given.stated.get("data_content_sha256"),
        space=given.stated.get("space"),
    )
    check_origin(ds, split, base)
    matched = match_rows(given.labels, ds, side.conditions.index, columns, given.source)
    code = matched.code
    keep = np.flatnonzero(code >= 0)
    dropped = int((code == CONTROL_ROW).sum())
    if dropped:
        notes["control_rows_dropped"] = dropped
    if matched.not_asked:
        notes["conditions_not_asked_for"] = len(matched.not_asked)
    if matched.unknown:
        notes["unknown_conditions"] = len(matched.unknown)
        notes["unknown"] = matched.unknown[:20]
        warnings.append(
            f"{len(matched.unknown)} conditions of the file ({int((code == UNKNOWN).sum())} rows) are unknown to the data set "
            f"and left out, e.g. {matched.unknown[:3]}"
        )
    if matched.guides:
        notes["guides_as_genes"] = len(matched.guides)
        guide, gene = next(iter(matched.guides.items()))
        warnings.append(
            f"{len(matched.guides)} labels of the file name guides that the import took as their gene, e.g. {guide!r} as "
            f"{gene!r}: the rows of one gene are averaged, all alike"
        )
    if len(given.genes) > ds.n_genes:
        notes["genes_not_asked_for"] = len(given.genes) - ds.n_genes
    X, var = given.values[keep], None if given.var is None else given.var[keep]
    X, var = X[:, used], None if var is None else var[:, used]
    counts = None if declared or given.kind is not None else counts_of(ds, X, code[keep], given)
    if counts is not None:
        X = counts.expression
        compare_controls(ds, given.values[code == CONTROL_ROW][:, used], notes, warnings)
    controls: list[FloatArray] = []
    if dropped and counts is None:
        at = np.flatnonzero(code == CONTROL_ROW)
        at = at[np.unique(np.linspace(0, dropped - 1, _CONTROLS).astype(np.int64))]
        some = given.values[at][:, used]
        some = (some.toarray() if sp.issparse(some) else np.asarray(some)).astype(np.float64)
        controls = [some[matched.name[at] == label] for label in np.unique(matched.name[at])]
    drawn = None if counts is None else counts.counts
    rows = Rows(X, code[keep], np.ones(len(keep)), var, None, drawn, controls)
    _check_repeats(rows, matched.label[keep], side, given)
    return rows, base


def _left_out(ds: PerturbDataset, given: RowPrediction | PredictionTable, side: ObservedSide) -> BoolArray:
    """Return bool [C], conditions of which a prediction by data set row says that it has none."""
    out = np.zeros(len(side.conditions), dtype=np.bool_)
    if isinstance(given, RowPrediction) and given.not_predicted is not None:
        source = row_lookup(ds, given)[side.rows]
        known = source >= 0
        out[side.codes[known][given.not_predicted[source[known]]]] = True
    return out


def _check_repeats(rows: Rows, label: IntArray, side: ObservedSide, given: PredictionTable) -> None:
    """Refuse a file of one row per condition in which some conditions occur twice; guides of one gene are no repeats.

    Parameters
    ----------
    rows
        Rows of test conditions.
    label
        int64 [rows], number of the label of a row that names guides, else -1.
    side
        The observed side of the split.
    given
        The file.
    """
    width = int(label.max(initial=-1)) + 2
    named, n = np.unique(rows.code * width + label + 1, return_counts=True)
    repeated = np.unique(named[n > 1] // width)
    if len(repeated) and np.median(n) < FEWEST:
        names = side.conditions.index[repeated].tolist()
        msg = (
            f"{given.source} has a row per condition but repeats {len(repeated)} of them, e.g. {names[:3]}; give each "
            "once, or the cells of all"
        )
        raise PredictionError(msg)


def _check_finite(rows: Rows, side: ObservedSide) -> None:
    for what, values in (("prediction", rows.X), ("the variance of the prediction", rows.var)):
        if values is None:
            continue
        if sp.issparse(values):
            # By rows: files are read so.
            sparse: Any = values
            wrong = np.flatnonzero(~np.isfinite(sparse.data))
            bad = np.searchsorted(sparse.indptr, wrong, side="right") - 1
        else:
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            names = side.conditions.index[np.unique(rows.code[bad])].tolist()
            msg = f"{what} is NaN or infinite in {len(names)} conditions, e.g. {names[:3]}; predict finite values"
            raise PredictionError(msg)
    negative = np.zeros(0) if rows.var is None else np.flatnonzero((rows.var < 0).any(axis=1))
    if len(negative):
        names = side.conditions.index[np.unique(rows.code[negative])].tolist()
        msg = f"prediction has negative variance in {len(names)} conditions, e.g. {names[:3]}"
        raise PredictionError(msg)


def _scale(ds: PerturbDataset) -> str:
    """Return the scale that a data set is scored in, in words."""
    if ds.metadata.normalization is not None:
        return f"log1p of counts scaled to {ds.metadata.normalization.target_sum:g} per cell"
    return "log1p expression" if ds.metadata.space in ("log1p", "counts") else ds.metadata.space


# ---- the prediction ----------------------------------------------------------------------------------------


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
