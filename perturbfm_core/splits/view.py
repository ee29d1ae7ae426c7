"""Training view of a split: the conditions and rows that a model may read, without test rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.table import ConditionTable, condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray
from perturbfm_core.splits.control_cells import ControlCells
from perturbfm_core.splits.inner_masks import inner_masks
from perturbfm_core.splits.open_controls import open_rows, with_open_controls
from perturbfm_core.splits.split import FrozenSplit, InnerFolds, Unit


@dataclass(frozen=True, eq=False)
class Query:
    """Conditions to predict, with the information that a model may use: their names and input controls.

    Attributes
    ----------
    conditions
        Condition table [C].
    genes
        Gene ids [G].
    control
        float32 [C, G], mean of the matched input controls in log1p units, None for delta-only data.
    cells
        Their single cells, None for data without; models ask `control_cells` for them.
    """

    conditions: pd.DataFrame
    genes: StrArray
    control: FloatArray | None
    cells: ControlCells | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.conditions)

    def control_cells(self, context: str) -> Any:
        """Return the input control cells of a context of the conditions, log1p [n, G], CSR or dense; read when asked for.

        They are what `control` is the mean of, by batch; cells of the reference role, which the truth subtracts, cannot
        be reached.

        Raises
        ------
        SplitError
            If the data have no single control cells, or the query has no conditions of the context.
        """
        if self.cells is None:
            msg = "this query has no control cells; a model that starts from cells declares Requires(controls=True, cells=True)"
            raise SplitError(msg)
        return self.cells.expression(context)


# What a part of a view copies from the whole.
_MATRICES = ("delta", "s2", "control")


@dataclass(frozen=True, eq=False)
class TrainView:
    """Training conditions of one split.

    Attributes
    ----------
    conditions
        Condition table [n], index = key.
    genes
        Gene ids [G].
    delta
        float32 [n, G], mean expression minus the mean of the matched input controls, in log1p units.
    s2
        float32 [n, G], sampling variance of `delta` (perturbed and control means).
    n_cells
        int64 [n], rows of each condition.
    control
        float32 [n, G], mean of the matched input controls, None for delta-only data.
    inner
        (fit, held-out) masks over the n conditions, by the split's inner folds.
    unit
        Exchangeable unit of the split, which inner folds, bagging and calibration must not divide.
    validation
        The validation conditions in the same form, None if the split has no validation fold.
    dataset
        The data set, None for a view without access to single rows.
    allowed_rows
        bool [N]: rows of the data set that may be read: training and validation rows and the input controls
        of their contexts.
    fit_rows
        bool [N]: those of `allowed_rows` that belong to the view's own conditions, without validation: their
        cells and the input controls of their contexts.
    """

    conditions: pd.DataFrame
    genes: StrArray
    delta: FloatArray
    s2: FloatArray
    n_cells: IntArray
    control: FloatArray | None
    inner: list[tuple[BoolArray, BoolArray]] = field(default_factory=list)
    unit: Unit = "condition"
    validation: TrainView | None = None
    dataset: PerturbDataset | None = None
    allowed_rows: BoolArray | None = None
    fit_rows: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.conditions)

    def subset(self, mask: BoolArray) -> TrainView:
        """Return the view of the conditions in `mask` (bool [n]), with their inner folds and rows only."""
        left = self._rows_left(self.conditions.index[~mask])
        return _Part.of(
            self,
            np.flatnonzero(mask),
            conditions=self.conditions[mask],
            genes=self.genes,
            n_cells=self.n_cells[mask],
            inner=[
                (fit[mask], held[mask]) for fit, held in self.inner if fit[mask].any() and held[mask].any()
            ],
            unit=self.unit,
            dataset=self.dataset,
            allowed_rows=None if left is None or self.allowed_rows is None else self.allowed_rows & left,
            fit_rows=None if left is None or self.fit_rows is None else self.fit_rows & left,
        )

    def _rows_left(self, dropped: pd.Index) -> BoolArray | None:
        """Return bool [N], false for cells of dropped conditions and controls of contexts that only these have."""
        if self.dataset is None or (self.allowed_rows is None and self.fit_rows is None):
            return None
        ds = self.dataset
        gone = ds.conditions.index.isin(dropped)
        kept = self.conditions.index.difference(dropped)
        # Contexts with a remaining condition, and contexts without any condition in this view (of validation,
        # or of a transductive split), whose controls may be read.
        contexts = ds.obs[schema.CONTEXT_ID].cat
        left = set(self.conditions.loc[kept, schema.CONTEXT_ID]) | (
            set(contexts.categories) - set(self.conditions[schema.CONTEXT_ID])
        )
        in_left = contexts.categories.isin(left)[contexts.codes.to_numpy()]
        treated = ds.condition_codes >= 0
        # Perturbed rows stay with their condition, control rows with their context.
        return np.asarray(np.where(treated, ~gone[ds.condition_codes], in_left), dtype=np.bool_)

    def delta_columns(self, columns: slice) -> FloatArray:
        """Return float32 [n, k], the deltas of some genes: of a part of a view, without a copy of all the others."""
        return self.delta[:, columns]

    def query(self) -> Query:
        """Return the conditions of this view as a query, to predict them."""
        contexts = self.conditions[schema.CONTEXT_ID]
        cells = None if self.dataset is None else ControlCells.of(self.dataset, contexts, self.allowed_rows)
        return Query(self.conditions, self.genes, self.control, cells)

    def expression(self, rows: IntArray) -> FloatArray:
        """Return float32 [n, G], log1p expression of training or validation rows or their input controls.

        Raises
        ------
        SplitError
            If a row is not in `allowed_rows`, or the view has no data set.
        """
        if self.dataset is None or self.allowed_rows is None:
            msg = "this view has no cells; inner folds serve conditions only"
            raise SplitError(msg)
        refused = rows[~self.allowed_rows[rows]]
        if len(refused):
            msg = (
                f"{len(refused)} of the rows asked for are not train, validation or their input controls "
                f"(first: row {int(refused[0])}); a model must not read them"
            )
            raise SplitError(msg)
        X = self.dataset.expression
        if X is None:
            return self.dataset.delta(rows)
        picked = X[rows]
        return np.asarray(picked.toarray() if hasattr(picked, "toarray") else picked, dtype=np.float32)


class _Part(TrainView):
    """Some conditions of a view; each of its matrices is copied when it is first read.

    At ten thousand conditions one matrix takes hundreds of megabytes, and many models read only some of them.
    """

    _whole: TrainView
    _rows: IntArray

    @classmethod
    def of(cls, whole: TrainView, rows: IntArray, **fields: Any) -> _Part:
        """Return the conditions `rows` of a view; `fields` are all but the matrices."""
        if isinstance(whole, _Part) and "_whole" in vars(whole):
            rows, whole = whole._rows[rows], whole._whole
        made = cls.__new__(cls)
        # Frozen, and without matrices so far: attributes are set past the class's own way.
        vars(made).update(fields, validation=None, _whole=whole, _rows=rows)
        return made

    def __getattr__(self, name: str) -> FloatArray | None:
        # Called for what is not there yet.
        if name not in _MATRICES:
            raise AttributeError(name)
        whole: FloatArray | None = getattr(self._whole, name)
        taken = None if whole is None else _taken(whole, self._rows)
        object.__setattr__(self, name, taken)
        return taken

    def delta_columns(self, columns: slice) -> FloatArray:
        if "delta" in vars(self):
            return super().delta_columns(columns)
        return self._whole.delta[self._rows, columns]


def _taken(matrix: FloatArray, rows: IntArray) -> FloatArray:
    """Return some rows of a matrix; one row that stands for all goes on to do so."""
    if matrix.strides[0] == 0 and len(matrix):
        return np.broadcast_to(matrix[0], (len(rows), matrix.shape[1]))
    return matrix[rows]


def train_view(ds: PerturbDataset, split: FrozenSplit) -> TrainView:
    """Return the training view of a split (the folds in its `fit_rows`), with validation and inner folds.

    Raises
    ------
    SplitError
        If rows of train have no control outside of held-out batches.
    """
    fit_rows = split.rows(ds, *split.fit_folds)
    allowed, fitted = (open_rows(ds, split, *folds) for folds in (("train", "val"), split.fit_folds))
    ds = with_open_controls(ds, split)
    table = condition_table(ds, fit_rows)
    validation = None
    if split.definition.validation == "fold" and "val" not in split.fit_folds:
        validation = _plain_view(ds, condition_table(ds, split.rows(ds, "val")))
    base = _plain_view(ds, table)
    return TrainView(
        conditions=base.conditions,
        genes=base.genes,
        delta=base.delta,
        s2=base.s2,
        n_cells=base.n_cells,
        control=base.control,
        inner=_inner(split.definition.inner, table),
        unit=split.definition.unit,
        validation=validation,
        dataset=ds,
        allowed_rows=allowed,
        fit_rows=fitted,
    )


def query(ds: PerturbDataset, table: ConditionTable) -> Query:
    """Return a query for conditions of a data set: names and input controls only, no observed deltas."""
    cells = ControlCells.of(ds, table.conditions[schema.CONTEXT_ID])
    return Query(table.conditions, ds.genes, table.control.get("input"), cells)


def _plain_view(ds: PerturbDataset, table: ConditionTable) -> TrainView:
    return TrainView(
        conditions=table.conditions,
        genes=ds.genes,
        delta=table.delta["input"],
        s2=table.s2_pert + table.s2_control["input"],
        n_cells=table.n,
        control=table.control.get("input"),
    )


def _inner(inner: InnerFolds | None, table: ConditionTable) -> list[tuple[BoolArray, BoolArray]]:
    return [] if inner is None else inner_masks(inner, table.conditions)
