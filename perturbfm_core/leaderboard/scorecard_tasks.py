"""One task of a scorecard: values of all entries on a board, their ranks with ties, and their place between floor and ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from perturbfm_core.evaluation.metric import Metric
from perturbfm_core.leaderboard.condition_matrix import MATRIX_COLUMNS, matrix_of, pooled
from perturbfm_core.leaderboard.declared_metrics import registered
from perturbfm_core.leaderboard.entry_scores import entry_scores
from perturbfm_core.leaderboard.fold_conditions import FoldConditions
from perturbfm_core.leaderboard.grain import BoardBootstrap
from perturbfm_core.leaderboard.headline import Marks
from perturbfm_core.leaderboard.reasons import OTHER_VERSION

# Digits beyond which values are the same: sums in another order differ in the last bits.
_DIGITS = 10


@dataclass(frozen=True)
class Task:
    """A board of a suite with one metric.

    Attributes
    ----------
    board, dataset, kind
        The board.
    metric, direction
        What is scored, as PANEL.METRIC.
    unit
        What was held out, by which intervals are drawn.
    n_splits, n_splits_expected
        Folds that the suite has, and of the whole cross-validation.
    n_splits_no_signal
        Those of the suite's folds that are left out, as their data have no signal while others' have.
    n_conditions, n_possible
        Test conditions of all the suite's other folds, and those of them without the ones that no entry has a value on.
    floor, floor_name, ceiling, ceiling_name
        What 0 and 1 stand for, None where they are unknown.
    counted
        Whether the task enters mean ranks and scores.
    note
        What must be said of it: why it does not count, or has no scale.
    marks, mark_reasons
        {name: mean over the splits that count} of the scores of the control, of the train mean, of half of the cells and of the
        noise-free truth, None where unknown; and why one is unknown.
    """

    board: str
    dataset: str
    kind: str
    metric: str
    direction: str
    unit: str
    n_splits: int
    n_splits_expected: int
    n_splits_no_signal: int = 0
    n_conditions: int = 0
    n_possible: int = 0
    floor: float | None = None
    floor_name: str | None = None
    ceiling: float | None = None
    ceiling_name: str | None = None
    counted: bool = True
    note: str | None = None
    marks: Mapping[str, float | None] = field(default_factory=dict)
    mark_reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskScore:
    """An entry on a task.

    Attributes
    ----------
    value, ci_low, ci_high
        Mean over the conditions where it is defined, with a 95 % interval; None where there is none.
    rank
        Its place, equal ones sharing the mean of their places; None where the task does not count.
    relative
        Its place between floor (0) and ceiling (1); conditions without a value are at the floor. None without a scale.
    coverage
        Share of the task's conditions that it predicted; one scored as its control, for want of a prediction, is not.
    n_defined
        Number of conditions with a value.
    reason
        Why there is no value, or not everywhere.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    rank: float | None
    relative: float | None
    coverage: float
    n_defined: int
    reason: str | None = None


def scale_of(metric: Metric, marks: Marks) -> dict[str, float | str | None]:
    """Return what 0 and 1 stand for on a board: the better of train mean and control, and the noise-free bound.

    The null floor and the half ceiling stand in where these are unknown. Where the panel of the metric has a scale of its
    own, 0 and 1 are those of that scale.

    Parameters
    ----------
    metric
        The metric.
    marks
        Of the board (see `PooledMarks`).
    """
    if marks.baseline is not None and marks.anchor is not None:
        names = {"floor_name": "baseline", "ceiling_name": "replicate anchor"}
        return {"floor": marks.baseline, "ceiling": marks.anchor, **names}
    floors = {"train mean": marks.train_mean, "control": marks.control_mean}
    known = {name: value for name, value in floors.items() if value is not None}
    if not known and marks.null is not None:
        known = {"no effect": marks.null}
    ceilings = {"noise-free": marks.noise_free, "half of the cells": marks.half}
    top = next(((n, v) for n, v in ceilings.items() if v is not None), (None, None))
    bottom = min(known.items(), key=lambda item: metric.badness(item[1])) if known else (None, None)
    return {"floor": bottom[1], "floor_name": bottom[0], "ceiling": top[1], "ceiling_name": top[0]}


def score_task(
    task: Task, metric: Metric, scores: pd.DataFrame, expected: int, reasons: Mapping[str, str | None]
) -> tuple[Task, dict[str, TaskScore]]:
    """Return a task with its number of conditions, and the score of every entry on it.

    Parameters
    ----------
    task
        The task.
    metric
        Its metric.
    scores
        Condition scores of the metric, and of those that it is a ratio of, the oldest run first: ``entry, split_hash, panel,
        metric, key, value, direction, metric_version``; and ``predicted``, bool, where some conditions are scored without a prediction.
    expected
        Number of test conditions of the task's splits, a condition counting in every fold that tests it.
    reasons
        {entry: why scores of it are missing, None if they are all there}.
    """
    own = scores[(scores["panel"] == metric.panel) & (scores["metric"] == metric.name)]
    older = _of_other_version(own, metric)
    reasons = {
        entry: reason or (OTHER_VERSION if entry in older else None) for entry, reason in reasons.items()
    }
    scores, own = (
        table.assign(value=table["value"].mask(table["entry"].isin(older))) for table in (scores, own)
    )
    scored, defined = _pairs(own), _pairs(own[np.isfinite(own["value"].to_numpy(dtype=np.float64))])
    predicted = _pairs(own[own["predicted"].to_numpy(dtype=np.bool_)]) if "predicted" in own else scored
    # What nobody predicted is not undefined by the data.
    everywhere = {pair for of in predicted.values() for pair in of}
    hopeless = everywhere - {pair for of in defined.values() for pair in of}
    total = max(expected - len(hopeless), 0)
    values, intervals = _values(task, metric, scores)
    n_defined = {e: len(defined.get(e, ())) for e in reasons}
    ranks = _ranks(metric, values, {e: total - n_defined[e] for e in reasons}) if task.counted else {}
    out = {}
    for entry, reason in reasons.items():
        value, share = values.get(entry), n_defined[entry] / total if total else 0.0
        if value is None and reason is None:
            reason = "undefined: it predicts the same change for every condition, or no condition has a value"
        elif reason is None and n_defined[entry] < total:
            reason = f"no value on {total - n_defined[entry]} of {total} conditions"
        if absent := len(scored.get(entry, ())) - len(predicted.get(entry, ())):
            said = f"{absent} of {expected} conditions are not predicted and scored as their control"
            reason = said if reason is None else f"{reason}; {said}"
        low, high = intervals.get(entry, (None, None))
        out[entry] = TaskScore(
            value=value,
            ci_low=low,
            ci_high=high,
            rank=ranks.get(entry),
            relative=_relative(task, metric, value, share),
            coverage=min(len(predicted.get(entry, ())) / expected, 1.0) if expected else 0.0,
            n_defined=n_defined[entry],
            reason=reason,
        )
    return Task(**{**vars(task), "n_conditions": expected, "n_possible": total}), out


def _of_other_version(own: pd.DataFrame, metric: Metric) -> set[str]:
    """Return the entries that another version of the metric scored, by the rule of `ScoreGrid.other_version`.

    Parameters
    ----------
    own, metric
        Scores of the metric, the oldest run first.
    """
    if own.empty:
        return set()
    version = own["metric_version"]
    wanted = metric.version if (version == metric.version).any() else version.iloc[-1]
    return set(own.loc[version != wanted, "entry"])


def _pairs(scores: pd.DataFrame) -> dict[str, set[tuple[str, str]]]:
    """Return {entry: (split, condition) pairs}."""
    return {
        str(entry): set(zip(part["split_hash"], part["key"], strict=True))
        for entry, part in scores.groupby("entry", sort=False)
    }


def _values(
    task: Task, metric: Metric, scores: pd.DataFrame
) -> tuple[dict[str, float], dict[str, tuple[float | None, float | None]]]:
    """Return the value and the interval of each entry that has one, made as those of the leaderboard are."""
    places = FoldConditions({str(s): set(keys) for s, keys in scores.groupby("split_hash")["key"]})
    bootstrap = BoardBootstrap.of(places.conditions, task.unit)
    fields = ["split_hash", *(c for c in ("seed",) if c in scores)]
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float | None, float | None]] = {}
    for entry, part in scores.groupby("entry", sort=False):
        runs = [
            places.of_split(
                matrix_of(pa.Table.from_pandas(run[list(MATRIX_COLUMNS)], preserve_index=False)), str(split)
            )
            for (split, *_), run in part.groupby(fields, sort=False)
        ]
        found = entry_scores(places.of_conditions(pooled(runs, places.keys)), bootstrap, registered)
        names = [(m.panel, m.metric) for m in found.metrics]
        if (own := (metric.panel, metric.name)) not in names:
            continue
        at, of = names.index(own), found.estimates
        if np.isfinite(of.value[at]):
            values[str(entry)] = float(of.value[at])
            low, high = float(of.low[at]), float(of.high[at])
            intervals[str(entry)] = (None, None) if np.isnan(low) else (low, high)
    return values, intervals


def _ranks(metric: Metric, values: Mapping[str, float], missing: Mapping[str, int]) -> dict[str, float]:
    """Return {entry: rank}: fewer conditions without a value first, then the better value; entries without any last.

    Nothing is ranked where no entry has a value.
    """
    if not values:
        return {}
    order = {
        entry: (0, n, float(f"{metric.badness(values[entry]):.{_DIGITS}g}"))
        if entry in values
        else (1, 0, 0.0)
        for entry, n in missing.items()
    }
    places = sorted(order.values())
    # The mean of the first and the last place of its equals.
    return {
        entry: (places.index(key) + 1 + len(places) - places[::-1].index(key)) / 2
        for entry, key in order.items()
    }


def _relative(task: Task, metric: Metric, value: float | None, share: float) -> float | None:
    if task.floor is None or task.ceiling is None:
        return None
    if value is None:
        return 0.0
    bottom, top = metric.badness(task.floor), metric.badness(task.ceiling)
    if not top < bottom:
        return None
    place = (bottom - metric.badness(value)) / (bottom - top)
    # Abstaining pays neither above the floor nor below it; an entry that is the floor is at 0, not at its last bit.
    return round(place * share if place > 0 else place, _DIGITS)
