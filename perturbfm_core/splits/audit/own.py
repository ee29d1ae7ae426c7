"""Audit records of a fit: the rows and controls that were available to the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.schema import BoolArray, IntArray
from perturbfm_core.splits.audit.run import FitRecord, RunRecords, rows_record
from perturbfm_core.splits.open_controls import with_open_controls
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query, TrainView


def fit_records(
    ds: PerturbDataset, split: FrozenSplit, view: TrainView, name: str, made: Iterable[FitRecord] = ()
) -> RunRecords:
    """Return the records of a fit on a training view: all rows that the view makes available to the model.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    view
        Training view that the model was fitted on.
    name
        Name of the model entry.
    made
        Records of the model's other inputs: graphs, gene features, an encoder.
    """
    own = split.rows(ds, *split.fit_folds)
    model = FitRecord(
        what="model",
        name=name,
        split_hash=split.hash,
        rows_sha256=rows_record(ds, own),
        rows="fit",
        content_sha256=ds.content_sha256,
    )
    read = np.zeros(ds.n_obs, dtype=np.bool_)
    read[own] = True
    if view.validation is not None:
        read[split.rows(ds, "val")] = True
    if ds.has_controls:
        read |= _matched_controls(with_open_controls(ds, split), np.flatnonzero(read))
    if view.allowed_rows is not None:
        read |= view.allowed_rows
    return RunRecords(
        made=(model, *made),
        rows_read=tuple(int(i) for i in np.flatnonzero(read)),
        control_roles=("input",) if ds.has_controls else (),
    )


def query_reads(query: Query) -> tuple[str, ...]:
    """Return the names of the fields of a query that hold information on the conditions to predict."""
    fields = [name for name, value in vars(query).items() if value is not None and name != "cells"]
    # Cells are offered, and count where a model has asked for them.
    return (*fields, *(["control_cells"] if query.cells is not None and query.cells.read else []))


def _matched_controls(ds: PerturbDataset, rows: IntArray) -> BoolArray:
    """Return bool [N]: the input controls whose means are subtracted in the deltas of the given rows."""
    groups = ds.controls
    # Pools below n_groups are single (context, batch) groups, those above are all controls of a context.
    pools = np.unique(groups.match["input"][groups.group[rows]])
    own = np.isin(groups.group, pools)
    whole = np.isin(groups.n_groups + groups.context_of_group[groups.group], pools)
    return np.asarray(groups.has_role("input") & (own | whole), dtype=np.bool_)
