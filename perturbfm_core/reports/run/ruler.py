"""Marks of the headline on one axis: the run, the best baseline, floors and ceilings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perturbfm_core.leaderboard.headline import MARKS, Marks, marks_of
from perturbfm_core.reports.run.scores import ReportScores
from perturbfm_core.reports.run.standing import Standing
from perturbfm_core.reports.run.values import one
from perturbfm_core.splits.folder import SplitStats

_FLOORS = {"train_mean": "train_mean_floor", "control_mean": "control_mean_floor", "null": "null_floor"}
_BOUNDS = {"half": "ceiling", "noise_free": "ceiling_noise_free"}
_NOTHING = Marks(None, None, None, None, None)


@dataclass(frozen=True)
class Ruler:
    """Marks on the axis of the headline.

    Attributes
    ----------
    points
        label, value, kind (``own, entry, floor, bound``), low and high of each mark.
    noise_free
        What a predictor without noise would reach, None if unknown.
    lacking
        Sentences on the marks that there are none of.
    """

    points: list[dict[str, Any]]
    noise_free: float | None
    lacking: list[str]


def ruler(entry: str, scores: ReportScores, standing: Standing, stats: SplitStats | None) -> Ruler:
    """Return the marks of a run's headline.

    Parameters
    ----------
    entry
        Name of the run's entry.
    scores, standing
        Its scores and what they are compared with.
    stats
        Ceilings and floors of the split; None if unknown.
    """
    metric = scores.metric
    marks = (
        marks_of(stats.ceiling, stats.floor, metric) if stats is not None and metric is not None else _NOTHING
    )
    points = [_mark(entry, scores.value, "own", standing.interval.low, standing.interval.high)]
    best, mean = standing.baseline, standing.train_mean
    if best is not None:
        points.append(_mark(best.name, best.value, "entry", best.interval.low, best.interval.high))
    undefined = []
    for name, column in _FLOORS.items():
        value = getattr(marks, name)
        if value is None and name == "train_mean" and mean is not None:
            value = mean.value
        if value is None:
            undefined.append(MARKS[column])
        points.append(_mark(MARKS[column], value, "floor"))
    points += [_mark(MARKS[column], getattr(marks, name), "bound") for name, column in _BOUNDS.items()]
    lacking = []
    if best is None and standing.n_baselines == 0:
        lacking.append("No other baseline with a value had been run on this split when this report was made.")
    if marks.half is None:
        reason = (stats.ceiling or {}).get("reason") if stats is not None else None
        lacking.append(
            f"No ceiling: {reason}." if isinstance(reason, str) else "No ceiling is known for this metric."
        )
    if undefined and stats is not None and stats.floor:
        lacking.append(f"Without a value in this metric: {', '.join(undefined)}.")
    return Ruler([p for p in points if p["value"] is not None], one(marks.noise_free), lacking)


def _mark(
    label: str, value: float | None, kind: str, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    return {"label": label, "value": one(value), "kind": kind, "low": one(low), "high": one(high)}
