"""Panel `linear_paper`: distance and correlation over the 1,000 genes most expressed in a context's controls."""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.evaluation.panels.linear_paper import interactions, scores
from perturbfm_core.evaluation.singles import Singles, parts_of
from perturbfm_core.schema import FloatArray, IntArray

PANEL = "linear_paper"
_SOURCE = "Ahlmann-Eltze et al. 2025"
_NO_EXPRESSION = "delta-only data has no control expression to choose genes by"
_FLAT = "; or a side is constant over these genes"

add_panel(PANEL, source=_SOURCE, headline="l2", order=80)

Side = tuple[IntArray, FloatArray, FloatArray, FloatArray]


def _sides(c: Comparison) -> Side | None:
    """Return (genes, control, observed delta, predicted delta), each [C, k]; None without control expression."""

    def choose() -> IntArray | None:
        if c.control is None:
            return None
        genes = np.empty((len(c), min(scores.N_GENES, len(c.genes))), dtype=np.int64)
        for context in np.unique(c.contexts):
            rows = c.contexts == context
            genes[rows] = scores.expressed(c.control[rows].mean(axis=0), names=c.genes)
        return genes

    def compute() -> Side | None:
        genes = c.once_per_observed("linear_paper.genes", choose)
        if genes is None or c.control is None:
            return None
        control, truth, mean = (
            np.take_along_axis(A, genes, axis=1) for A in (c.control, c.observed, c.predicted)
        )
        return genes, control, truth, mean

    return c.once("linear_paper.sides", compute)


@metric(
    PANEL, "l2", direction="min", bounds=(0.0, None), version="1", source=_SOURCE, undefined=_NO_EXPRESSION
)
def l2(c: Comparison) -> FloatArray:
    """Euclidean distance of predicted and observed mean over the 1,000 most expressed genes."""
    sides = _sides(c)
    return np.full(len(c), np.nan) if sides is None else scores.l2(sides[2], sides[3])


@metric(
    PANEL,
    "pearson_delta",
    direction="max",
    bounds=(-1.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined=_NO_EXPRESSION + _FLAT,
)
def pearson_delta(c: Comparison) -> FloatArray:
    """Pearson correlation of predicted and observed delta over the 1,000 most expressed genes."""
    sides = _sides(c)
    return np.full(len(c), np.nan) if sides is None else scores.pearson(sides[2], sides[3])


@metric(
    PANEL,
    "pearson",
    direction="max",
    bounds=(-1.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined=_NO_EXPRESSION + _FLAT,
)
def pearson(c: Comparison) -> FloatArray:
    """Pearson correlation of predicted and observed mean expression over the 1,000 most expressed genes."""
    sides = _sides(c)
    if sides is None:
        return np.full(len(c), np.nan)
    _, control, truth, predicted = sides
    return scores.pearson(control + truth, control + predicted)


def _additive(c: Comparison) -> tuple[IntArray, FloatArray]:
    """Return positions of the doubles whose singles are in train in the same context, and the sums of these deltas [d, G]."""

    def compute() -> tuple[IntArray, FloatArray]:
        rows, sums = [], []
        if c.train is not None:
            singles = Singles(c.train.conditions)
            for i, (context, double) in enumerate(zip(c.contexts, parts_of(c.conditions), strict=True)):
                parts = [singles.rows(part, str(context)) for part in double]
                if len(parts) == 2 and parts[0] and parts[1]:
                    rows.append(i)
                    sums.append(c.train.delta[parts[0]].mean(axis=0) + c.train.delta[parts[1]].mean(axis=0))
        return np.asarray(rows, dtype=np.int64), np.asarray(sums).reshape(len(rows), len(c.genes))

    return c.once_per_observed("linear_paper.additive", compute)


@metric(
    PANEL,
    "interaction_curve",
    direction="max",
    bounds=(0.0, 1.0),
    version="1",
    source=_SOURCE,
    undefined="not a double whose singles train has in this context; or the tested doubles show no synergy",
)
def interaction_curve(c: Comparison) -> FloatArray:
    """Share of synergies found, mean over all false discovery proportions, among all tested doubles together.

    A synergy is a gene that a double changes further up than the sum of its singles, beyond the threshold of
    the local false discovery rate. One number, given for every double that takes part.
    """
    out = np.full(len(c), np.nan)
    rows, sums = _additive(c)
    sides = _sides(c)
    if sides is None or not len(rows):
        return out
    truth, predicted = sides[2][rows], sides[3][rows]
    expected = np.take_along_axis(sums, sides[0][rows], axis=1)
    limits = c.once_per_observed("linear_paper.thresholds", lambda: interactions.thresholds(truth - expected))
    curve = (
        None
        if limits is None
        else interactions.synergy_curve(truth - expected, predicted - expected, limits[1])
    )
    if curve is not None:
        out[rows] = curve.mean()
    return out
