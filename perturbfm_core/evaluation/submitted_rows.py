"""Rows of test conditions in a prediction made elsewhere, by data set row or by label, and checks of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.data.prediction_conditions import CONTROL_ROW, UNKNOWN
from perturbfm_core.data.prediction_files import PredictionTable
from perturbfm_core.data.prediction_labels import LabelColumns, Matched, match_rows
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.alignment import (
    check_origin,
    gene_columns,
    row_lookup,
)
from perturbfm_core.evaluation.comparison import ObservedSide
from perturbfm_core.evaluation.submitted_cells import FEWEST, Rows
from perturbfm_core.evaluation.submitted_counts import compare_controls, counts_of
from perturbfm_core.schema import BoolArray, FloatArray, IntArray
from perturbfm_core.splits.split import FrozenSplit

# So many control rows of a file are looked at.
_CONTROLS = 500


def rows_of_prediction(
    ds: PerturbDataset, split: FrozenSplit, given: RowPrediction, side: ObservedSide
) -> Rows:
    """Return the distinct predicted rows of a prediction by data set row.

    Parameters
    ----------
    ds, split
        Data and split.
    given
        The prediction.
    side
        The observed side of the split.

    Raises
    ------
    PredictionError
        If it is of other data or another split, or has some test rows of a condition and lacks others.
    """
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


def rows_of_table(
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
    """Return the rows of test conditions, and what the file declares as an empty prediction.

    Parameters
    ----------
    ds, split
        Data and split.
    given
        The table of a file.
    side
        The observed side of the split.
    columns
        Names of label columns, as far as they are given.
    notes, warnings
        Counts and sentences about the file, which are added to.
    declared
        Whether the user says what the numbers are; else counts are recognised.
    """
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
    _note_labels(matched, notes, warnings)
    if len(given.genes) > ds.n_genes:
        notes["genes_not_asked_for"] = len(given.genes) - ds.n_genes
    X, var = given.values[keep], None if given.var is None else given.var[keep]
    X, var = X[:, used], None if var is None else var[:, used]
    counts = None if declared or given.kind is not None else counts_of(ds, X, code[keep], given)
    if counts is not None:
        X = counts.expression
        compare_controls(ds, given.values[code == CONTROL_ROW][:, used], notes, warnings)
    controls = [] if counts is not None else _control_rows(given, matched, used)
    drawn = None if counts is None else counts.counts
    rows = Rows(X, code[keep], np.ones(len(keep)), var, None, drawn, controls)
    _check_repeats(rows, matched.label[keep], side, given)
    return rows, base


def _note_labels(matched: Matched, notes: dict[str, Any], warnings: list[str]) -> None:
    """Count the rows whose labels name no test condition, or guides, and say what happens to them."""
    dropped = int((matched.code == CONTROL_ROW).sum())
    if dropped:
        notes["control_rows_dropped"] = dropped
    if matched.not_asked:
        notes["conditions_not_asked_for"] = len(matched.not_asked)
    if matched.unknown:
        notes["unknown_conditions"] = len(matched.unknown)
        notes["unknown"] = matched.unknown[:20]
        warnings.append(
            f"{len(matched.unknown)} conditions of the file ({int((matched.code == UNKNOWN).sum())} rows) are unknown to the "
            f"data set and left out, e.g. {matched.unknown[:3]}"
        )
    if matched.guides:
        notes["guides_as_genes"] = len(matched.guides)
        guide, gene = next(iter(matched.guides.items()))
        warnings.append(
            f"{len(matched.guides)} labels of the file name guides that the import took as their gene, e.g. {guide!r} as "
            f"{gene!r}: the rows of one gene are averaged, all alike"
        )


def _control_rows(given: PredictionTable, matched: Matched, used: IntArray) -> list[FloatArray]:
    """Return some control rows of a file, float64 [rows, G] by their label, on the genes at `used`."""
    at = np.flatnonzero(matched.code == CONTROL_ROW)
    if not len(at):
        return []
    at = at[np.unique(np.linspace(0, len(at) - 1, _CONTROLS).astype(np.int64))]
    some = given.values[at][:, used]
    some = (some.toarray() if sp.issparse(some) else np.asarray(some)).astype(np.float64)
    return [some[matched.name[at] == label] for label in np.unique(matched.name[at])]


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


def conditions_left_out(
    ds: PerturbDataset, given: RowPrediction | PredictionTable, side: ObservedSide
) -> BoolArray:
    """Return bool [C], conditions of which a prediction by data set row says that it has none.

    Parameters
    ----------
    ds
        The data set.
    given
        What was read from a file.
    side
        The observed side of the split.
    """
    out = np.zeros(len(side.conditions), dtype=np.bool_)
    if isinstance(given, RowPrediction) and given.not_predicted is not None:
        source = row_lookup(ds, given)[side.rows]
        known = source >= 0
        out[side.codes[known][given.not_predicted[source[known]]]] = True
    return out


def check_values(rows: Rows, side: ObservedSide) -> None:
    """Refuse values and variances that are not finite, and negative variances.

    Raises
    ------
    PredictionError
        With the conditions that have them.
    """
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
