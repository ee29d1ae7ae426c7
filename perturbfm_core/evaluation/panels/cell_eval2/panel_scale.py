"""Scores of panel `vcc2026`: each of the six metrics from the baseline (0) to a replicate (1), and their mean.

Baseline and replicate anchor are computed within each context from the measured cells of its test conditions, so a score
is one number per context. Every condition of the context has it; over several contexts, scores are averaged with equal
weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import metric
from perturbfm_core.evaluation.panel import scale_of
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.catalog import LFC_NMAE, METRICS, NORM, SOURCE, Inputs
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import values_of
from perturbfm_core.evaluation.panels.cell_eval2.registration import PROJECT
from perturbfm_core.evaluation.panels.cell_eval2.samples import ContextSample
from perturbfm_core.evaluation.panels.cell_eval2.scale import SCORED, mean_score, scaled
from perturbfm_core.evaluation.panels.cell_eval2.values import has_counts, inputs_of
from perturbfm_core.schema import FloatArray

PANEL = "vcc2026"
SCORE = "vcc2026_score"
_PART, _WEIGHT = "vcc2026_score_part", "vcc2026_score_weight"
_UNDEFINED = (
    "the context has no scale (a condition or its controls have fewer than two cells, or fewer than two conditions), or its "
    "baseline is not worse than its replicate anchor; `scale` in metrics.json says which"
)
Value = Callable[[Mapping[str, float]], float]
Bounds = tuple[float | None, float | None]
_NO_COUNTS = "the data set keeps no counts; import it with --space counts"


def scores_of(c: Comparison) -> list[tuple[ContextSample, dict[str, float]]]:
    """Return each context with the scores of the six metrics, NaN where undefined."""
    scale = scale_of(c, PANEL)
    return c.once(
        "vcc2026.scores",
        lambda: [(s, scaled(_means(s, inputs), scale[s.context])) for s, inputs in inputs_of(c)],
    )


def _means(sample: ContextSample, inputs: Inputs) -> dict[str, float]:
    names = sample.truth.cells.perturbations
    out = {}
    for name in SCORED:
        try:
            out[name] = aggregates(values_of(names, inputs, [name]))["mean"][name]
        except MetricError:
            # What the peer refuses to score has no value.
            out[name] = math.nan
    return out


def _terms(c: Comparison, value: Value) -> tuple[FloatArray, FloatArray]:
    """Return (the share of each condition in the score of its context, its weight), whose sums give the mean score."""
    above, below = np.full(len(c), np.nan), np.full(len(c), np.nan)
    if has_counts(c).any():
        for sample, scores in scores_of(c):
            score, n = value(scores), len(sample.rows)
            if math.isfinite(score):
                above[sample.rows], below[sample.rows] = score / n, 1.0 / n
    return above, below


def _register(name: str, text: str, value: Value, bounds: Bounds, parts: tuple[str, str] | None) -> None:
    metric(
        PANEL,
        name,
        text,
        direction="max",
        bounds=bounds,
        aggregate="ratio",
        ratio_of=() if parts is None else (parts,),
        **_COMMON,
    )(lambda c: _terms(c, value))


_COMMON: Any = {
    "version": SOURCE,
    "source": PROJECT,
    "undefined": _UNDEFINED,
    "needs": "cells",
    "applies": has_counts,
    "inapplicable": _NO_COUNTS,
}
_register(
    SCORE,
    "Mean of the six scores of the challenge: 0 at the mean response of the context, 1 at a replicate of its cells.",
    mean_score,
    (None, None),
    (_PART, _WEIGHT),
)
for _name in SCORED:
    _scoring = METRICS[_name].scoring
    _clamped = {NORM: ", within 0 and 1", LFC_NMAE: ", at least -6"}.get(_name, "")
    _register(
        f"score_{_name}",
        f"{_name} from the baseline (0) to the replicate anchor (1){_clamped}.",
        itemgetter(_name),
        (_scoring.low, _scoring.high),
        None,
    )
metric(
    PANEL,
    _PART,
    f"Numerator of {SCORE}: the score of the context over its number of conditions.",
    direction="max",
    bounds=(None, None),
    **_COMMON,
)(lambda c: _terms(c, mean_score)[0])
metric(
    PANEL,
    _WEIGHT,
    f"Denominator of {SCORE}: 1 over the number of conditions of the context.",
    direction="target",
    bounds=(0.0, 1.0),
    **_COMMON,
)(lambda c: _terms(c, mean_score)[1])
