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
from perturbfm_core.data.prediction import Intervals, RowPrediction
from perturbfm_core.data.table import ConditionTable, condition_table
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.cells import Cells, Generator, cells_of
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray
from perturbfm_core.splits.split import FrozenSplit

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TrainSide:
    """The train conditions of a split, as far as metrics refer to them.

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


@dataclass(frozen=True, eq=False)
class Comparison:
    """Test conditions with their observed and predicted delta.

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
        float64 [C, G], sampling variance of `observed`.
    alignment
        ``by_name`` or ``positional_unverified``.
    var_filled
        Whether the prediction came without variance.
    notes
        Counts from the alignment, e.g. of predicted rows outside the test fold.
    train
        The train conditions, for metrics that refer to them; None where they are not available.
    cells
        Observed, control and generated cells, None for data without them.
    intervals
        Calibrated prediction intervals of the conditions, None where the prediction has none.
    var_epistemic
        float64 [C, G], the part of `predicted_var` that more training data would remove, None if unknown.
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
    notes: dict[str, int] = field(default_factory=dict)
    train: TrainSide | None = None
    cells: Cells | None = None
    intervals: Intervals | None = None
    var_epistemic: FloatArray | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False)
    observed_shared: dict[str, Any] = field(default_factory=dict, repr=False)

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
    def contexts(self) -> StrArray:
        """Return the context of each condition [C]."""
        return np.asarray(self.conditions[schema.CONTEXT_ID].astype(str), dtype=np.str_)

    @cached_property
    def perturbations(self) -> StrArray:
        """Return the perturbation of each condition [C]."""
        return np.asarray(self.conditions[schema.PERT_ID].astype(str), dtype=np.str_)


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
    shared: dict[str, Any] = field(default_factory=dict, repr=False)


def observed(ds: PerturbDataset, split: FrozenSplit) -> ObservedSide:
    """Return the observed side: test rows, their condition means, and the train mean."""
    rows = split.rows(ds, "test")
    table = condition_table(ds, rows)
    train = condition_table(ds, split.rows(ds, *split.fit_folds))
    position = {key: i for i, key in enumerate(table.conditions.index)}
    names = ds.conditions.index[ds.condition_codes[rows]]
    control = table.control.get("reference")
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
        s2=(table.s2_pert + table.s2_control["reference"]).astype(np.float64),
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
    _check_origin(ds, split, prediction)
    columns, by_name = _gene_columns(ds, prediction)
    rows_of = _row_lookup(ds, prediction)
    missing = side.rows[rows_of[side.rows] < 0]
    if len(missing):
        names = sorted(set(ds.conditions.index[ds.condition_codes[missing]]))
        msg = f"prediction lacks {len(missing)} of {len(side.rows)} test rows, in conditions {names[:3]}; predict them all"
        raise PredictionError(msg)
    source = rows_of[side.rows]
    mean = _average(prediction.mean, source, side.codes, len(side.conditions))
    var = _average(prediction.var, source, side.codes, len(side.conditions))
    epistemic = prediction.var_epistemic
    if epistemic is not None:
        epistemic = _average(epistemic, source, side.codes, len(side.conditions))
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
        notes={"rows_not_asked_for": int((rows_of >= 0).sum() - len(side.rows))},
        train=side.train,
        cells=cells_of(ds, side.conditions, side.rows, side.codes, mean, var, generator or Generator()),
        intervals=_intervals(prediction.intervals, source, side.codes, len(side.conditions), columns),
        var_epistemic=epistemic,
        observed_shared=side.shared,
    )


def _check_origin(ds: PerturbDataset, split: FrozenSplit, prediction: RowPrediction) -> None:
    if prediction.data_content_sha256 not in (None, "", ds.content_sha256):
        msg = (
            f"prediction was made for data {str(prediction.data_content_sha256)[:12]}, "
            f"{ds.name!r} is {ds.content_sha256[:12]}; use its own data set"
        )
        raise PredictionError(msg)
    if prediction.split_hash not in (None, "", split.hash):
        msg = f"prediction was made for split {str(prediction.split_hash)[:12]}, not {split.hash[:12]}; use its own split"
        raise PredictionError(msg)
    space = "log1p" if ds.metadata.space == "counts" else ds.metadata.space
    if prediction.space not in (None, "", space):
        msg = f"prediction is in space {prediction.space!r}, the data set is scored in {space!r}"
        raise PredictionError(msg)


def _gene_columns(ds: PerturbDataset, prediction: RowPrediction) -> tuple[IntArray | None, bool]:
    """Return (prediction column of each data set gene or None for the same order, whether by name)."""
    if prediction.genes is None:
        if prediction.mean.shape[1] != ds.n_genes:
            msg = (
                f"prediction has {prediction.mean.shape[1]} unnamed genes, the data set {ds.n_genes}; "
                "add an array `genes` with their names"
            )
            raise PredictionError(msg)
        return None, False
    if np.array_equal(prediction.genes, ds.genes):
        return None, True
    position = {str(g): i for i, g in enumerate(prediction.genes)}
    if len(position) < len(prediction.genes):
        msg = f"prediction repeats {len(prediction.genes) - len(position)} gene names; give every gene once"
        raise PredictionError(msg)
    missing = [str(g) for g in ds.genes if str(g) not in position]
    if missing:
        msg = f"prediction lacks {len(missing)} of {ds.n_genes} genes, e.g. {missing[:3]}; predict every gene of the data set"
        raise PredictionError(msg)
    return np.asarray([position[str(g)] for g in ds.genes], dtype=np.int64), True


def _row_lookup(ds: PerturbDataset, prediction: RowPrediction) -> IntArray:
    """Return int64 [N]: the row of the prediction's mean for each row of the data set, -1 for none."""
    idx = prediction.idx
    if prediction.row_id is not None:
        wanted = ds.obs.index.get_indexer(prediction.row_id.tolist())
        if (wanted < 0).any():
            name = str(prediction.row_id[int(np.flatnonzero(wanted < 0)[0])])
            msg = f"prediction names {int((wanted < 0).sum())} rows that {ds.name!r} does not have, e.g. {name!r}"
            raise PredictionError(msg)
        if len(np.unique(wanted)) < len(wanted):
            msg = f"row_id of the prediction repeats {len(wanted) - len(np.unique(wanted))} rows; predict each row once"
            raise PredictionError(msg)
        idx = wanted
    if len(idx) and (idx.min() < 0 or idx.max() >= ds.n_obs):
        msg = f"prediction has idx outside the data set's rows (0 to {ds.n_obs - 1})"
        raise PredictionError(msg)
    lookup = np.full(ds.n_obs, -1, dtype=np.int64)
    lookup[idx] = prediction.rows
    return lookup


def _intervals(
    given: Intervals | None, source: IntArray, codes: IntArray, n: int, columns: IntArray | None
) -> Intervals | None:
    """Return the intervals of conditions, averaging the factors of several predicted rows of one condition."""
    if given is None:
        return None
    factor = np.stack([_average(level, source, codes, n) for level in given.factor])
    extra: dict[str, Any] = {"flag": None, "effective": None}
    if given.flag is not None:
        extra["flag"] = _average(given.flag[:, None].astype(np.float64), source, codes, n)[:, 0] > 0
    if given.effective is not None:
        extra["effective"] = _average(given.effective[:, None], source, codes, n)[:, 0]
    gene_bin = given.gene_bin if columns is None else given.gene_bin[columns]
    return Intervals(given.levels, factor, gene_bin, **extra)


def _average(values: FloatArray, source: IntArray, codes: IntArray, n: int) -> FloatArray:
    """Return float64 [n, G]: mean of the prediction rows of each condition."""
    first = np.full(n, -1, dtype=np.int64)
    first[codes[::-1]] = source[::-1]
    if np.array_equal(first[codes], source):
        return values[first].astype(np.float64)
    out = np.zeros((n, values.shape[1]))
    for start in range(0, len(source), 4096):
        block = slice(start, start + 4096)
        np.add.at(out, codes[block], values[source[block]].astype(np.float64))
    mean: FloatArray = out / np.bincount(codes, minlength=n)[:, None]
    return mean
