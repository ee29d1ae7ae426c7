"""Files of a pair of truth and prediction: h5ad in, tables of values, statistics and scores out."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core.data.h5ad import read_matrix, read_obs, read_var
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2.cells import (
    InputType,
    LabelledCells,
    check_pair,
    label_cells,
)
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Values
from perturbfm_core.evaluation.panels.cell_eval2.scores import Score
from perturbfm_core.schema import StrArray

RESULTS_FILE = "results.csv"
AGGREGATES_FILE = "agg_results.csv"
SCORE_FILE = "score.csv"


def read_cells(
    path: Path, pert_col: str, control: str, input_type: InputType = "counts", *, whole: bool = True
) -> tuple[LabelledCells, StrArray]:
    """Return the cells of an h5ad file, and its labels in the order of their categories.

    Parameters
    ----------
    path
        The file.
    pert_col
        Column of ``obs`` with the labels.
    control
        Label of the control cells.
    input_type
        ``counts`` or ``lognorm``.
    whole
        Whether counts must be whole numbers.

    Raises
    ------
    MetricError
        If the column is missing, or a cell has no label.
    """
    obs, var, X = read_matrix(path, None, compact=input_type == "counts")
    labels = _labels(path, obs, pert_col)
    cells = label_cells(
        X,
        labels.astype(str).to_numpy(dtype=np.str_),
        _names(var),
        control,
        input_type,
        what=f"the cells of {path}",
        whole=whole,
    )
    if isinstance(labels.dtype, pd.CategoricalDtype):
        return cells, np.asarray(labels.cat.categories.astype(str), dtype=np.str_)
    return cells, np.unique(labels.astype(str).to_numpy(dtype=np.str_))


def check_files(real: Path, others: Mapping[str, Path], pert_col: str, control: str) -> None:
    """Check that files have the labels and genes of the measured cells, before any cell is read.

    Parameters
    ----------
    real
        The file of the measured cells.
    others
        {what it is, for messages: another file}.
    pert_col
        Column of ``obs`` with the labels.
    control
        Label of the control cells.

    Raises
    ------
    MetricError
        If the column is missing, a cell has no label, or labels or genes differ.
    """
    truth = _without_values(real, pert_col, control)
    for what, path in others.items():
        cells = _without_values(path, pert_col, control)
        if truth is not None and cells is not None:
            check_pair(truth, cells, what)


def _without_values(path: Path, pert_col: str, control: str) -> LabelledCells | None:
    """Return the cells of a file as if all their values were 0; None of a file without cells or genes."""
    obs, var = read_obs(path), read_var(path)
    if not (len(obs) and len(var)):
        # Whoever reads the values says so.
        return None
    labels = _labels(path, obs, pert_col).astype(str).to_numpy(dtype=np.str_)
    nothing = sp.csr_array((len(obs), len(var)), dtype=np.float32)
    return label_cells(nothing, labels, _names(var), control, what=f"the cells of {path}")


def _labels(path: Path, obs: pd.DataFrame, pert_col: str) -> pd.Series[Any]:
    if pert_col not in obs.columns:
        known = ", ".join(map(str, obs.columns[:8])) or "none"
        msg = f"{path} has no obs column {pert_col!r}; its columns are {known}"
        raise MetricError(msg)
    labels = obs[pert_col]
    if labels.isna().any():
        msg = f"{path}: {int(labels.isna().sum())} cells have no label in obs column {pert_col!r}; label or drop them"
        raise MetricError(msg)
    return labels


def _names(var: pd.DataFrame) -> StrArray:
    return np.asarray(var.index.astype(str), dtype=np.str_)


def results_csv(values: Values) -> str:
    """Return the values as rows of perturbation, metric and value, as the peer writes them; undefined values are NaN."""
    rows = [
        (str(name), metric, _text(float(values.values[metric][i])))
        for metric in values.values
        for i, name in enumerate(values.names)
        if values.present[metric][i]
    ]
    return _csv(("perturbation", "metric", "value"), rows)


def aggregates_csv(statistics: Mapping[str, Mapping[str, float]]) -> str:
    """Return statistics as one row each, one column per metric."""
    metrics = list(next(iter(statistics.values())))
    rows = [(name, *(_text(row[m]) for m in metrics)) for name, row in statistics.items()]
    return _csv(("statistic", *metrics), rows)


def score_csv(scores: Sequence[Score]) -> str:
    """Return scores as one row per metric; what is not scored is empty."""
    rows = [
        (s.metric, *("" if v is None else _text(v) for v in (s.from_baseline, s.from_replicate)))
        for s in scores
    ]
    return _csv(("metric", "from_baseline", "from_replicate"), rows)


def _text(value: float) -> str:
    return "NaN" if np.isnan(value) else repr(float(value))


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()
