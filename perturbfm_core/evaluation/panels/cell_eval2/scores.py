"""Scores of a prediction on the scale from a baseline (0) to the best value, or to a replicate (1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.panels.cell_eval2.catalog import DECISIVE, METRICS, VCC2026, Scoring

AVERAGE = "avg_score"
# Errors above the baseline's cost half of their square less 1, at most this.
_CAP = 6.0
# Label of the control cells in the challenge.
_CONTROL = "non-targeting"


@dataclass(frozen=True)
class Score:
    """Scores of one metric.

    Attributes
    ----------
    metric
        Name of the metric, or ``avg_score``.
    from_baseline
        0 at the baseline, 1 at the best value; None where it is not scored so.
    from_replicate
        0 at the baseline, 1 at the replicate anchor; None where it is not scored so.
    """

    metric: str
    from_baseline: float | None
    from_replicate: float | None


def is_of_challenge(control: str, input_type: str = "counts", *, targets: bool = True) -> bool:
    """Return whether a run is by the challenge's configuration, by which the peer knows the score of the challenge.

    Parameters
    ----------
    control
        Label of the control cells.
    input_type
        ``counts`` or ``lognorm``.
    targets
        Whether target genes are left out.
    """
    return control == _CONTROL and input_type == "counts" and targets


def scale_score(value: float, base: float, scoring: Scoring) -> float:
    """Return the score of a value, within its bounds; an undefined value gets the lowest.

    Parameters
    ----------
    value
        The prediction's value.
    base
        The baseline's.
    scoring
        Direction, best value and bounds.
    """
    low = -math.inf if scoring.low is None else scoring.low
    high = math.inf if scoring.high is None else scoring.high
    score = _raw(value, base, scoring) if math.isfinite(value) else math.nan
    if not math.isfinite(score):
        if math.isfinite(low) or scoring.worst is None:
            return low
        score = _raw(scoring.worst, base, scoring)
    return min(max(score, low), high)


def _raw(value: float, base: float, scoring: Scoring) -> float:
    if scoring.anchor is None:
        gap = value - base if scoring.better == "higher" else base - value
        return gap / (abs(base) if scoring.signed else base)
    if scoring.better == "higher":
        return (value - base) / (scoring.anchor - base)
    ratio = (value - scoring.anchor) / (base - scoring.anchor)
    if ratio > 1 and scoring.convex:
        return max(-_CAP, -(ratio**2 - 1.0) / 2.0)
    return 1.0 - ratio


def has_scale(base: float, scoring: Scoring) -> bool:
    """Return whether the baseline is on the worse side of the best value, so that a score is defined."""
    if not math.isfinite(base):
        return False
    if scoring.anchor is None:
        return base != 0 if scoring.signed else base > 0
    gap = scoring.anchor - base if scoring.better == "higher" else base - scoring.anchor
    return math.isfinite(gap) and gap > 0


def score_table(
    means: Mapping[str, float],
    base: Mapping[str, float],
    anchor: Mapping[str, float] | None = None,
    *,
    of_challenge: bool = True,
) -> list[Score]:
    """Return the scores of every scored metric, those that are errors first, and last their mean.

    A metric without any value on both sides is left out. Metrics of the challenge are not averaged from the baseline
    where they are of the challenge's own configuration.

    Parameters
    ----------
    means
        Metric -> the prediction's mean.
    base
        Metric -> the baseline's mean.
    anchor
        Metric -> the replicates' mean.
    of_challenge
        Whether cells and options are as in the challenge (`is_of_challenge`).

    Raises
    ------
    MetricError
        If a decisive metric has no scale.
    """
    rows = []
    for name in sorted(means, key=lambda m: (METRICS[m].scoring.better != "lower", m)):
        metric = METRICS[name]
        if not metric.scored:
            continue
        value, low = means[name], base.get(name, math.nan)
        if metric.gated and math.isnan(value) and math.isnan(low):
            continue
        plain = _scored(name, value, low, metric.scoring, "the best value", decisive=name in DECISIVE)
        high = None if anchor is None else _on_replicates(name, value, low, anchor.get(name, math.nan))
        rows.append(Score(name, plain, high))
    rows.append(_average(rows, enrolled=of_challenge and anchor is not None and set(means) == set(VCC2026)))
    return [row for row in rows if row.from_baseline is not None or row.from_replicate is not None]


def _on_replicates(name: str, value: float, base: float, replicate: float) -> float | None:
    scoring = METRICS[name].scoring
    if scoring.worst is not None and not replicate > scoring.worst:
        replicate = math.nan
    scoring = replace(scoring, anchor=replicate, signed=False)
    return _scored(name, value, base, scoring, "the replicates", decisive=name in VCC2026)


def _scored(
    name: str, value: float, base: float, scoring: Scoring, end: str, *, decisive: bool
) -> float | None:
    finite = scoring.anchor is None or math.isfinite(scoring.anchor)
    if finite and has_scale(base, scoring):
        return scale_score(value, base, scoring)
    if decisive:
        far = "" if scoring.anchor is None else f" ({scoring.anchor:g})"
        msg = f"{name} has no scale: the baseline's value {base:g} is not worse than that of {end}{far}"
        raise MetricError(msg)
    return None


def _average(rows: list[Score], *, enrolled: bool) -> Score:
    plain = [r.from_baseline for r in rows if r.from_baseline is not None]
    high = [r.from_replicate for r in rows if r.from_replicate is not None]
    if not plain and not high:
        msg = "no metric can be scored: every baseline value is without a scale"
        raise MetricError(msg)
    return Score(
        AVERAGE,
        None if enrolled or not plain else float(np.mean(plain)),
        float(np.mean(high)) if high else None,
    )
