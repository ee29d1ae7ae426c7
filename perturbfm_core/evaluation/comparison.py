"""Alignment of a prediction with the observed test conditions, shared by all metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_genes
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import RowPrediction
from perturbfm_core.data.table import ConditionTable, condition_table
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.alignment import (
    averaged,
    averaged_intervals,
    check_origin,
    gene_columns,
    row_lookup,
)
from perturbfm_core.evaluation.cells import Cells, Generator, cells_of
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray
from perturbfm_core.splits.split import FrozenSplit

T = TypeVar("T")

# A delta is a difference of mean expressions: in double precision for entries, and in single precision for whole rows,
# which models compute, less than this share of the expression is rounding.
_ROUNDING = 1e-12
_SINGLE_ROUNDING = 5e-7

# Arrays of a `Comparison`.
_ARRAYS = (
    *("observed", "predicted", "predicted_var", "train_mean", "control", "n", "shared_control", "s2"),
    *("var_epistemic", "not_predicted"),
)


def _make_read_only(side: TrainSide | Comparison, *names: str) -> None:
    """Replace the arrays of that name by views that cannot be written to; whose arrays they are may still write."""
    for name in names:
        if (array := getattr(side, name)) is not None:
            view = np.asarray(array).view()
            view.flags.writeable = False
            object.__setattr__(side, name, view)


@dataclass(frozen=True, eq=False)
class TrainSide:
    """The train conditions of a split, as far as metrics refer to them, read-only.

    Attributes
    ----------
    conditions
        Condition table [T], index = key.
    delta
        float64 [T, G], mean expression minus the mean of the matched *input* controls.
    expression
        float64 [T, G], mean expression, None for delta-only data.
    n
        int64 [T], cells of each condition.
    """

    conditions: pd.DataFrame
    delta: FloatArray
    expression: FloatArray | None
    n: IntArray

    def __post_init__(self) -> None:
        _make_read_only(self, "delta", "expression", "n")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Test conditions with their observed and predicted delta; its arrays are read-only, since all metrics share them.

    Attributes
    ----------
    conditions
        Condition table [C], index = key.
    genes
        Gene ids [G].
    observed
        float64 [C, G], observed delta: mean minus the mean of the matched *reference* controls.
    predicted, predicted_var
        float64 [C, G], predicted delta and its predictive variance.
    train_mean
        float64 [G], unweighted mean of the train conditions' deltas.
    control
        float64 [C, G], mean of the matched reference controls, None for delta-only data.
    n
        int64 [C], rows of each condition.
    shared_control
        bool [C], whether truth and train subtract the same controls.
    s2
        float64 [C, G], sampling variance of `observed`, 0 where unknown.
    alignment
        ``by_name`` or ``positional_unverified``.
    var_filled
        Whether the prediction came without variance.
    notes
        Counts from the alignment, e.g. of predicted rows outside the test fold, and what else is known of it.
    train
        The train conditions, for metrics that refer to them; None where they are not available.
    cells
        Observed, control and generated cells, None for data without them.
    intervals
        Calibrated prediction intervals of the conditions, None where the prediction has none.
    var_epistemic
        float64 [C, G], the part of `predicted_var` that more training data would remove, None if unknown.
    not_predicted
        bool [C], conditions without a prediction, scored as their control; centered metrics have no value of them. None
        if all are predicted.
    shared, observed_shared
        Intermediate results by key, of this comparison and of all comparisons on the same observed side.
    """

    conditions: pd.DataFrame
    genes: StrArray
    observed: FloatArray
    predicted: FloatArray
    predicted_var: FloatArray
    train_mean: FloatArray
    control: FloatArray | None
    n: IntArray
    shared_control: BoolArray
    s2: FloatArray
    alignment: str = "by_name"
    var_filled: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    train: TrainSide | None = None
    cells: Cells | None = None
    intervals: Intervals | None = None
    var_epistemic: FloatArray | None = None
    not_predicted: BoolArray | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False)
    observed_shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Set changes to zero where they are rounding of the expression that they are a difference of; see the class."""
        if self.control is not None:
            for name in ("observed", "predicted"):
                object.__setattr__(self, name, without_rounding(getattr(self, name), self.control))
        _make_read_only(self, *_ARRAYS)

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """Return the result of `compute`, computed once and shared by all metrics that use the same `key`."""
        if key not in self.shared:
            self.shared[key] = compute()
        return cast("T", self.shared[key])

    def once_per_observed(self, key: str, compute: Callable[[], T]) -> T:
        """Return the result of `compute`, computed once for all predictions of a split.

        It must depend on the observed side alone.
        """
        if key not in self.observed_shared:
            self.observed_shared[key] = compute()
        return cast("T", self.observed_shared[key])

    def __len__(self) -> int:
        return len(self.conditions)

    @cached_property
    def without_target(self) -> BoolArray:
        """Return bool [C, G], False at the genes that a condition perturbs itself."""
        position = {str(g): i for i, g in enumerate(self.genes)}
        keep = np.ones(self.observed.shape, dtype=np.bool_)
        for i, pert in enumerate(self.conditions[schema.PERT_ID].astype(str)):
            for gene in pert_genes(pert):
                if gene in position:
                    keep[i, position[gene]] = False
        return keep

    @cached_property
    def target_measured(self) -> BoolArray:
        """Return bool [C], whether any gene that a condition perturbs itself is measured."""
        return np.asarray(~self.without_target.all(axis=1), dtype=np.bool_)

    @cached_property
    def contexts(self) -> StrArray:
        """Return the context of each condition [C]."""
        return np.asarray(self.conditions[schema.CONTEXT_ID].astype(str), dtype=np.str_)

    @cached_property
    def perturbations(self) -> StrArray:
        """Return the perturbation of each condition [C]."""
        return np.asarray(self.conditions[schema.PERT_ID].astype(str), dtype=np.str_)


def without_rounding(delta: FloatArray, control: FloatArray) -> FloatArray:
    """Return the delta with entries, and rows, of the size of rounding errors set to exactly zero.

    Parameters
    ----------
    delta
        Change of mean expression [C, G].
    control
        Mean expression that was subtracted [C, G].
    """
    size, scale = np.abs(delta), np.abs(control)
    rounding = (size <= _ROUNDING * scale) & (size > 0)
    rows = size.max(axis=1, initial=0.0) <= _SINGLE_ROUNDING * scale.max(axis=1, initial=0.0)
    rounding |= (rows & size.any(axis=1))[:, None]
    return np.where(rounding, 0.0, delta) if rounding.any() else delta


@dataclass(frozen=True, eq=False)
class ObservedSide:
    """The observed side of a split's comparisons, the same for every entry.

    Attributes
    ----------
    conditions
        Condition table [C], index = key.
    rows, codes
        Row positions of the test rows [N] and the condition (0 to C - 1) of each.
    observed
        float64 [C, G], observed mean minus the mean of the matched *reference* controls.
    control, train_mean, n, shared_control, s2, train
        See `Comparison`.
    input_control
        float64 [C, G], mean of the matched *input* controls, which models see; None for delta-only data.
    s2_unseen
        float64 [C, G], `s2` without the noise of controls that truth and train share; None if it was not computed.
    shared
        Intermediate results by key, shared by all comparisons with this side.
    """

    conditions: pd.DataFrame
    rows: IntArray
    codes: IntArray
    observed: FloatArray
    control: FloatArray | None
    train_mean: FloatArray
    n: IntArray
    shared_control: BoolArray
    s2: FloatArray
    train: TrainSide | None = None
    input_control: FloatArray | None = None
    s2_unseen: FloatArray | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False)


def observed(ds: PerturbDataset, split: FrozenSplit) -> ObservedSide:
    """Return the observed side: test rows, their condition means, and the train mean."""
    rows = split.rows(ds, "test")
    table = condition_table(ds, rows)
    train = condition_table(ds, split.rows(ds, *split.fit_folds))
    position = {key: i for i, key in enumerate(table.conditions.index)}
    names = ds.conditions.index[ds.condition_codes[rows]]
    control, seen = table.control.get("reference"), table.control.get("input")
    s2 = (table.s2_pert + table.s2_control["reference"]).astype(np.float64)
    if table.s2_source == "unknown":
        # The variance of the controls alone would pass for that of the difference.
        s2 = np.zeros_like(s2)
    return ObservedSide(
        conditions=table.conditions,
        rows=rows,
        codes=np.asarray([position[k] for k in names], dtype=np.int64),
        observed=table.delta["reference"].astype(np.float64),
        control=None if control is None else control.astype(np.float64),
        train_mean=train.delta["input"].astype(np.float64).mean(axis=0),
        train=_train_side(train),
        n=table.n,
        shared_control=table.shared_control,
        s2=s2,
        s2_unseen=np.where(table.shared_control[:, None], np.minimum(table.s2_pert, s2), s2),
        input_control=None if seen is None else seen.astype(np.float64),
    )


def _train_side(table: ConditionTable) -> TrainSide:
    delta = table.delta["input"].astype(np.float64)
    control = table.control.get("input")
    return TrainSide(table.conditions, delta, None if control is None else delta + control, table.n)


def compare(
    ds: PerturbDataset,
    split: FrozenSplit,
    prediction: RowPrediction,
    side: ObservedSide | None = None,
    generator: Generator | None = None,
) -> Comparison:
    """Align a prediction with the test conditions of a split.

    Columns are aligned by gene name and rows by row id where the prediction has them; several rows of one
    condition are averaged.

    Parameters
    ----------
    ds
        The data set that the split belongs to.
    split
        The split whose test rows are compared.
    prediction
        Predicted delta and variance by row, log1p units.
    side
        The observed side, if already computed (see `observed`).
    generator
        How predicted means become cells; the default `Generator` if None.

    Raises
    ------
    PredictionError
        If the prediction belongs to other data or another split, lacks genes or test rows, or is not finite.
    """
    side = observed(ds, split) if side is None else side
    check_origin(ds, split, prediction)
    if prediction.kind == "expression":
        msg = "prediction declares expression; what is compared is its delta, which `evaluation.submitted` makes of it"
        raise PredictionError(msg)
    columns, by_name = gene_columns(ds, prediction.genes, prediction.mean.shape[1])
    rows_of = row_lookup(ds, prediction)
    missing = side.rows[rows_of[side.rows] < 0]
    if len(missing):
        names = sorted(set(ds.conditions.index[ds.condition_codes[missing]]))
        msg = f"prediction lacks {len(missing)} of {len(side.rows)} test rows, in conditions {names[:3]}; predict them all"
        raise PredictionError(msg)
    source = rows_of[side.rows]
    mean = averaged(prediction.mean, source, side.codes, len(side.conditions))
    var = averaged(prediction.var, source, side.codes, len(side.conditions))
    epistemic = prediction.var_epistemic
    if epistemic is not None:
        epistemic = averaged(epistemic, source, side.codes, len(side.conditions))
    if columns is not None:
        mean, var = mean[:, columns], var[:, columns]
        epistemic = None if epistemic is None else epistemic[:, columns]
    bad = ~(np.isfinite(mean).all(axis=1) & np.isfinite(var).all(axis=1))
    if bad.any():
        names = side.conditions.index[bad].tolist()
        msg = f"prediction is NaN or infinite in {int(bad.sum())} conditions, e.g. {names[:3]}; predict finite values"
        raise PredictionError(msg)
    # Before averaging, in which a negative value could vanish.
    negative = np.asarray((prediction.var < 0).any(axis=1))[source]
    if negative.any():
        names = side.conditions.index[np.unique(side.codes[negative])].tolist()
        msg = f"prediction has negative variance in {len(names)} conditions, e.g. {names[:3]}"
        raise PredictionError(msg)
    named = by_name and prediction.row_id is not None
    absent = _not_predicted(prediction, source, side)
    notes: dict[str, Any] = {"rows_not_asked_for": int((rows_of >= 0).sum() - len(side.rows))}
    if absent is not None:
        notes["missing_as_control"] = int(absent.sum())
    if prediction.warnings:
        notes["warnings"] = list(prediction.warnings)
    return Comparison(
        conditions=side.conditions,
        genes=ds.genes,
        observed=side.observed,
        predicted=mean,
        predicted_var=var,
        train_mean=side.train_mean,
        control=side.control,
        n=side.n,
        shared_control=side.shared_control,
        s2=side.s2,
        alignment="by_name" if named else "positional_unverified",
        var_filled=prediction.var_filled,
        notes=notes,
        train=side.train,
        cells=cells_of(
            ds, side.conditions, side.rows, side.codes, mean, var, generator or Generator(), prediction.cells
        ),
        intervals=averaged_intervals(prediction.intervals, source, side.codes, len(side.conditions), columns),
        var_epistemic=epistemic,
        not_predicted=absent,
        observed_shared=side.shared,
    )


def _not_predicted(prediction: RowPrediction, source: IntArray, side: ObservedSide) -> BoolArray | None:
    """Return bool [C], the conditions without a prediction, None if all have one.

    Parameters
    ----------
    prediction
        The prediction.
    source
        Row of its `mean` for each test row.
    side
        The observed side.
    """
    if prediction.not_predicted is None:
        return None
    out = np.zeros(len(side.conditions), dtype=np.bool_)
    out[side.codes[prediction.not_predicted[source]]] = True
    return out if out.any() else None
