"""`Comparison`: what was predicted beside what was observed, aligned once, for all metrics."""

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
    truth
        float64 [C, G], observed mean minus the mean of the matched *reference* controls.
    mean, var
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
        float64 [C, G], sampling variance of `truth`.
    alignment
        ``by_name`` or ``positional_unverified``.
    var_filled
        Whether the prediction came without variance.
    notes
        What happened on the way, e.g. how many predicted rows were not asked for.
    train
        The train conditions, for metrics that refer to them; None where a comparison is made without.
    cells
        True, control and generated cells, None for data without them.
    intervals
        Calibrated prediction intervals of the conditions, None where the prediction has none.
    var_epistemic
        float64 [C, G], the part of `var` that more training data would remove, None where not told.
    """

    conditions: pd.DataFrame
    genes: StrArray
    truth: FloatArray
    mean: FloatArray
    var: FloatArray
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
    truth_shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """Return what `compute` gives, computed once for all metrics that share it under `key`."""
        if key not in self.shared:
            self.shared[key] = compute()
        return cast("T", self.shared[key])

    def once_per_truth(self, key: str, compute: Callable[[], T]) -> T:
        """Return what `compute` gives from the observed side alone, computed once for all predictions of a split."""
        if key not in self.truth_shared:
            self.truth_shared[key] = compute()
        return cast("T", self.truth_shared[key])

    def __len__(self) -> int:
        return len(self.conditions)

    @cached_property
    def without_target(self) -> BoolArray:
        """Return bool [C, G], False at the genes that a condition perturbs itself."""
        position = {str(g): i for i, g in enumerate(self.genes)}
        keep = np.ones(self.truth.shape, dtype=np.bool_)
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
class Truth:
    """The observed side of a split's comparisons, the same for every entry."""

    conditions: pd.DataFrame
    rows: IntArray
    codes: IntArray
    truth: FloatArray
    control: FloatArray | None
    train_mean: FloatArray
    n: IntArray
    shared_control: BoolArray
    s2: FloatArray
    train: TrainSide | None = None
    shared: dict[str, Any] = field(default_factory=dict, repr=False)


def observed(ds: PerturbDataset, split: FrozenSplit) -> Truth:
    """Return the observed side: test rows, their condition means, and the train mean."""
    rows = split.rows(ds, "test")
    table = condition_table(ds, rows)
    train = condition_table(ds, split.rows(ds, *split.fit_folds))
    position = {key: i for i, key in enumerate(table.conditions.index)}
    names = ds.conditions.index[ds.condition_codes[rows]]
    control = table.control.get("reference")
    return Truth(
        conditions=table.conditions,
        rows=rows,
        codes=np.asarray([position[k] for k in names], dtype=np.int64),
        truth=table.delta["reference"].astype(np.float64),
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
    truth: Truth | None = None,
    generator: Generator | None = None,
) -> Comparison:
    """Align a prediction with the test conditions of a split.

    Columns are aligned by gene name and rows by row id where the prediction has them; several rows of one
    condition are averaged.

    Raises
    ------
    PredictionError
        If the prediction belongs to other data or another split, lacks genes or test rows, or is not finite.
    """
    truth = observed(ds, split) if truth is None else truth
    _check_origin(ds, split, prediction)
    columns, by_name = _gene_columns(ds, prediction)
    rows_of = _row_lookup(ds, prediction)
    missing = truth.rows[rows_of[truth.rows] < 0]
    if len(missing):
        names = sorted(set(ds.conditions.index[ds.condition_codes[missing]]))
        msg = f"prediction lacks {len(missing)} of {len(truth.rows)} test rows, in conditions {names[:3]}; predict them all"
        raise PredictionError(msg)
    source = rows_of[truth.rows]
    mean = _average(prediction.mean, source, truth.codes, len(truth.conditions))
    var = _average(prediction.var, source, truth.codes, len(truth.conditions))
    epistemic = prediction.var_epistemic
    if epistemic is not None:
        epistemic = _average(epistemic, source, truth.codes, len(truth.conditions))
    if columns is not None:
        mean, var = mean[:, columns], var[:, columns]
        epistemic = None if epistemic is None else epistemic[:, columns]
    bad = ~(np.isfinite(mean).all(axis=1) & np.isfinite(var).all(axis=1))
    if bad.any():
        names = truth.conditions.index[bad].tolist()
        msg = f"prediction is NaN or infinite in {int(bad.sum())} conditions, e.g. {names[:3]}; predict finite values"
        raise PredictionError(msg)
    # Before averaging, in which a negative value could vanish.
    negative = np.asarray((prediction.var < 0).any(axis=1))[source]
    if negative.any():
        names = truth.conditions.index[np.unique(truth.codes[negative])].tolist()
        msg = f"prediction has negative variance in {len(names)} conditions, e.g. {names[:3]}"
        raise PredictionError(msg)
    named = by_name and prediction.row_id is not None
    return Comparison(
        conditions=truth.conditions,
        genes=ds.genes,
        truth=truth.truth,
        mean=mean,
        var=var,
        train_mean=truth.train_mean,
        control=truth.control,
        n=truth.n,
        shared_control=truth.shared_control,
        s2=truth.s2,
        alignment="by_name" if named else "positional_unverified",
        var_filled=prediction.var_filled,
        notes={"rows_not_asked_for": int((rows_of >= 0).sum() - len(truth.rows))},
        train=truth.train,
        cells=cells_of(ds, truth.conditions, truth.rows, truth.codes, mean, var, generator or Generator()),
        intervals=_intervals(prediction.intervals, source, truth.codes, len(truth.conditions), columns),
        var_epistemic=epistemic,
        truth_shared=truth.shared,
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
    """Return int64 [N]: which row of the prediction's mean serves each row of the data set, -1 for none."""
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
    """Return the intervals of conditions; of several predicted rows the mean of their factors."""
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
    """Return float64 [n, G]: mean of the prediction rows that serve each condition."""
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
