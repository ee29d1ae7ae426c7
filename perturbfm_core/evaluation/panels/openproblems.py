"""Panel `openproblems`: row-wise statistics of the delta matrix, as in the NeurIPS 2023 perturbation task.

The task scores signed log p-values; here the same statistics are computed for deltas. A row with an undefined
correlation counts as 0 in the task and stays undefined here.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.schema import FloatArray

PANEL = "openproblems"
_SOURCE = "Open Problems, perturbation prediction (Szalata et al. 2024)"
_FLAT = "predicted or observed delta is constant over genes"

add_panel(PANEL, source=_SOURCE, headline="mean_rowwise_rmse", order=90)


def spearman(A: FloatArray, B: FloatArray) -> FloatArray:
    """Return [C], the Spearman correlation of each pair of rows (mean ranks for ties); NaN if a row is constant."""
    return rowwise.spearman(A, B)


def mean_of_rows(values: FloatArray) -> float:
    """Return the mean over rows [C] with undefined rows as 0, as the Open Problems task computes it."""
    return float(np.where(np.isfinite(values), values, 0.0).mean())


@metric(
    PANEL,
    "mean_rowwise_rmse",
    direction="min",
    bounds=(0.0, None),
    version="1",
    source=_SOURCE,
    undefined="never undefined",
)
def rmse(c: Comparison) -> FloatArray:
    """Root mean squared error of the delta over genes."""
    return np.sqrt(rowwise.mean_square(c.predicted - c.observed))


@metric(
    PANEL,
    "mean_rowwise_mae",
    direction="min",
    bounds=(0.0, None),
    version="1",
    source=_SOURCE,
    undefined="never undefined",
)
def mae(c: Comparison) -> FloatArray:
    """Mean absolute error of the delta over genes."""
    return rowwise.mean_absolute(c.predicted - c.observed)


@metric(
    PANEL,
    "mean_rowwise_pearson",
    direction="max",
    bounds=(-1.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined=_FLAT,
)
def pearson(c: Comparison) -> FloatArray:
    """Pearson correlation of predicted and observed delta over genes."""
    return rowwise.pearson(c.predicted, c.observed)


@metric(
    PANEL,
    "mean_rowwise_spearman",
    direction="max",
    bounds=(-1.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined=_FLAT,
)
def rank_correlation(c: Comparison) -> FloatArray:
    """Spearman correlation of predicted and observed delta over genes."""
    return spearman(c.predicted, c.observed)


@metric(
    PANEL,
    "mean_rowwise_cosine",
    direction="max",
    bounds=(-1.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined=_FLAT,
)
def cosine(c: Comparison) -> FloatArray:
    """Cosine of predicted and observed delta over genes."""
    flat = rowwise.constant(c.predicted) | rowwise.constant(c.observed)
    return np.where(flat, np.nan, rowwise.cosine(c.predicted, c.observed))
