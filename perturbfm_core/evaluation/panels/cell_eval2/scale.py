"""The scale of a context: what the mean response and a replicate of the measured cells score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from perturbfm_core.data.memory import give_back
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.anchor import anchor_means, anchor_splits
from perturbfm_core.evaluation.panels.cell_eval2.baseline import mean_response_cells
from perturbfm_core.evaluation.panels.cell_eval2.catalog import METRICS, VCC2026
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Truth, evaluate
from perturbfm_core.evaluation.panels.cell_eval2.samples import samples_of
from perturbfm_core.evaluation.panels.cell_eval2.scores import score_table

# The six metrics that are scored; the others of the profile describe.
SCORED = tuple(m for m in VCC2026 if METRICS[m].scored)
_NO_COUNTS = "the data set keeps no counts"


def scale_of_contexts(c: Comparison) -> dict[str, dict[str, Any]]:
    """Return {context: {metric: {"baseline": value, "anchor": value}}}, or {"reason": why there is none}.

    Baseline and anchor are those of the measured cells of the test conditions alone, so they are the same for every
    prediction. The cells that are drawn do not depend on the order of rows or genes.

    Parameters
    ----------
    c
        A comparison, of which the observed side is read.
    """
    if c.cells is None:
        return {}
    return {sample.context: _scale(sample.truth) for sample in samples_of(c)}


def _scale(truth: Truth) -> dict[str, Any]:
    if truth.cells.input_type != "counts":
        return {"reason": _NO_COUNTS}
    try:
        base = aggregates(evaluate(truth, mean_response_cells(truth), VCC2026))["mean"]
        give_back()
        anchor = anchor_means(anchor_splits(truth, VCC2026))
    except MetricError as error:
        return {"reason": str(error)}
    return {m: {"baseline": _number(base[m]), "anchor": _number(anchor[m])} for m in VCC2026}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def scaled(means: Mapping[str, float], scale: Mapping[str, Any]) -> dict[str, float]:
    """Return the score of each of the six metrics, 0 at the baseline and 1 at the replicate anchor, within its clamps.

    A metric whose baseline is not worse than the anchor has no score, and neither has a context without a scale: NaN.

    Parameters
    ----------
    means
        Metric -> mean over the perturbations of the context.
    scale
        What `scale_of_contexts` says of the context.
    """
    out = dict.fromkeys(SCORED, math.nan)
    if "reason" in scale:
        return out
    for name in SCORED:
        base, anchor = (_or_nan(scale[name][end]) for end in ("baseline", "anchor"))
        try:
            rows = score_table({name: means[name]}, {name: base}, {name: anchor})
        except MetricError:
            continue
        score = rows[0].from_replicate
        out[name] = math.nan if score is None else score
    return out


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def mean_score(scores: Mapping[str, float]) -> float:
    """Return the mean of the six scores, NaN if one of them is undefined."""
    return float(np.mean([scores[m] for m in SCORED]))
