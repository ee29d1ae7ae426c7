"""Values of the peer's metrics for the conditions of a comparison."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.memory import give_back
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import SetStatistic
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, NORM_PARTS, Inputs
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import compare_cells
from perturbfm_core.evaluation.panels.cell_eval2.samples import ContextSample, samples_of
from perturbfm_core.schema import BoolArray, FloatArray, IntArray


def inputs_of(c: Comparison) -> list[tuple[ContextSample, Inputs]]:
    """Return what the metrics of each context are computed from, made once for all metrics of both panels."""
    return c.once("cell_eval2.inputs", lambda: [(s, _inputs(s)) for s in samples_of(c)])


def _inputs(sample: ContextSample) -> Inputs:
    inputs = compare_cells(sample.truth, sample.predicted, METRICS)
    # The cells of all contexts together may be more than fit the memory; their tables are small.
    sample.release()
    give_back()
    return inputs


def condition_values(c: Comparison, name: str) -> FloatArray:
    """Return float64 [C], the values of a metric by the peer's name; NaN where it has none.

    Parameters
    ----------
    c
        The comparison.
    name
        Name of a metric that has values per perturbation.

    Raises
    ------
    MetricError
        If the metric is one number of all perturbations together.
    """
    compute = METRICS[name].compute
    if compute is None:
        msg = f"{name} has no value of a single perturbation; see effect_error"
        raise MetricError(msg)

    def values() -> FloatArray:
        out = np.full(len(c), np.nan)
        for sample, inputs in inputs_of(c):
            try:
                found, present = compute(inputs)
            except MetricError:
                # What the peer refuses to score, as a panel whose genes are all targets, is undefined here.
                continue
            out[sample.rows] = np.where(present, found, np.nan)
        return out

    return c.once(f"cell_eval2.{name}", values)


def effect_error(c: Comparison) -> SetStatistic:
    """Return the statistic of conditions that is their summed error over their summed effect.

    Errors are bounded within each context by all of its conditions. NaN where there is no effect beyond sampling noise,
    which the peer refuses to score.
    """
    above, below = (condition_values(c, part) for part in NORM_PARTS)
    used = np.isfinite(above) & np.isfinite(below)
    names = c.contexts
    for context in np.unique(names):
        here = used & (names == context)
        if not below[here].sum() > 0:
            used &= names != context

    def ratio(positions: IntArray) -> float:
        chosen = positions[used[positions]]
        total = float(below[chosen].sum())
        return float(above[chosen].sum()) / total if total > 0 else float("nan")

    return ratio


def has_counts(c: Comparison) -> BoolArray:
    """Return bool [C], whether the data set keeps counts, for metrics that are of counts only."""
    return np.full(len(c), c.cells is not None and c.cells.counts is not None)
