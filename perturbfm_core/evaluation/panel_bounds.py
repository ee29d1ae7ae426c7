"""Ceilings and floors of the headline metric of each panel other than `delta`.

They are made as those of panel `delta` are (see `ceilings`): trivial predictions as floors, and one half of each
condition's cells as the prediction of the other half, all panels on the same halvings. A panel that reads predicted cells
reads those of the first half, and subtracts the controls that it always does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.memory import give_back
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation import ceilings
from perturbfm_core.evaluation.ceilings import Halved, halved
from perturbfm_core.evaluation.cells import Generator, cells_of
from perturbfm_core.evaluation.comparison import Comparison, ObservedSide, observed
from perturbfm_core.evaluation.condition_bounds import (
    CONTROL,
    HALF,
    TRAIN,
    ConditionBounds,
    mean_of_draws,
)
from perturbfm_core.evaluation.given_halves import given_halves
from perturbfm_core.evaluation.metric import METRICS, Metric
from perturbfm_core.evaluation.metric_values import run_metric
from perturbfm_core.evaluation.panel import PANELS, scale_key
from perturbfm_core.evaluation.reliability import noise_free
from perturbfm_core.evaluation.scale_marks import scale_marks
from perturbfm_core.schema import CONTEXT_ID, FloatArray, IntArray
from perturbfm_core.splits.split import FrozenSplit

# Fewer than those of panel `delta`, and of metrics that read every cell the first one alone.
HALVINGS = 5
_NO_RULE = "what a noise-free prediction would reach does not follow from halves for this metric"
_NO_CELLS = "the data set has no single cells with controls"
_NO_HALVES = "no test condition has two cells and its context two controls"
# On its own scale the interpolated duplicate, made of one half, is 1, and so is the replicate anchor, where there is a scale.
_BY_DEFINITION = {"calibrated.headline": 1.0, "vcc2026.vcc2026_score": 1.0}
_LOG_SCORE = "uncertainty.nll"
# Variances up to this are those of genes that do not vary.
_NO_VARIANCE = 1e-12
# {PANEL.METRIC: its values by test condition [C]}.
_ByCondition = dict[str, FloatArray]


def headline_metrics() -> list[Metric]:
    """Return the headline metrics of all panels but `delta`, whose bounds lie beside each split."""
    return [
        METRICS.get(f"{name}.{panel.headline}") for name, panel in PANELS.items() if name != ceilings.PANEL
    ]


def panel_bounds(
    ds: PerturbDataset,
    split: FrozenSplit,
    *,
    halvings: int = HALVINGS,
    seed: int = 0,
    scales: Callable[[Comparison], Mapping[str, Mapping[str, Any]]] | None = None,
    keep: Callable[[ConditionBounds], None] = lambda _values: None,
) -> dict[str, dict[str, Any]]:
    """Return {"ceiling": {PANEL.METRIC: ...}, "floor": {"control_mean": ..., "train_mean": ...}} of a split.

    Panels with a scale add what its two ends are of each of their metrics: ``baseline`` among the floors, and ``anchor``
    in the ceiling of the metric.

    Parameters
    ----------
    ds
        The data set that the split belongs to.
    split
        The split; its test conditions are scored.
    halvings
        Number of random halvings that are averaged.
    seed
        Seed of the halvings.
    scales
        (comparison on the split) -> {panel: its scale}, of the panels that have one; None lets them be computed here.
    keep
        Called with the values by condition of the metrics whose value of several conditions is their mean.
    """
    side = observed(ds, split)
    level = ds.metadata.level
    metrics = headline_metrics()
    center = np.broadcast_to(side.train_mean, side.observed.shape)
    zero = np.zeros_like(side.observed)
    train = zero[:1] if side.train is None else side.train.delta
    if scales is not None:
        found = scales(_trivial(ds, side, zero, np.ones(ds.n_genes)))
        side.shared.update({scale_key(panel): scale for panel, scale in found.items()})
    floor: dict[str, Mapping[str, float | None]] = {}
    without: dict[str, str] = {}
    by_condition: dict[str, _ByCondition] = {}
    for kind, guess, spread in (
        (CONTROL, zero, (train**2).mean(axis=0)),
        (TRAIN, center, train.var(axis=0)),
    ):
        comparison = _trivial(ds, side, guess, spread)
        floor[kind], by_condition[kind] = _scores(metrics, comparison, level)
        without = _without(metrics, comparison)
    # What no trivial prediction has a value of has no scale, so nothing is 1 on it.
    without = {name: why for name, why in without.items() if all(of[name] is None for of in floor.values())}
    ceiling, by_condition[HALF] = _ceiling(ds, side, metrics, halvings, seed, without)
    marks = _scale_marks(side)
    if marks:
        floor["baseline"] = {name: ends[0] for name, ends in marks.items()}
        ceiling |= {name: {**ceiling.get(name, {}), "anchor": ends[1]} for name, ends in marks.items()}
    values = {(kind, name): v for kind, scores in by_condition.items() for name, v in scores.items()}
    keep(ConditionBounds(tuple(map(str, side.conditions.index)), values))
    return {"ceiling": ceiling, "floor": floor}


def _scale_marks(side: ObservedSide) -> dict[str, tuple[float, float]]:
    """Return {PANEL.METRIC: (baseline, anchor)} of the panels whose scale is known by now."""
    out: dict[str, tuple[float, float]] = {}
    for name, panel in PANELS.items():
        scale = side.shared.get(scale_key(name))
        if isinstance(scale, Mapping):
            out |= scale_marks(name, panel.headline, scale, side.conditions[CONTEXT_ID].astype(str))
    return out


def _without(metrics: list[Metric], comparison: Comparison) -> dict[str, str]:
    """Return {PANEL.METRIC: why it would have no value} of the metrics with a ceiling by definition."""
    why = {}
    for m in metrics:
        if _name(m) in _BY_DEFINITION:
            applies = m.applies is None or bool(np.any(m.applies(comparison)))
            why[_name(m)] = m.undefined if applies else m.inapplicable
    return why


def _ceiling(
    ds: PerturbDataset,
    side: ObservedSide,
    metrics: list[Metric],
    halvings: int,
    seed: int,
    without: Mapping[str, str],
) -> tuple[dict[str, Any], _ByCondition]:
    """Return {PANEL.METRIC: its half and noise-free value, or why there is none}, and its half by condition.

    Parameters
    ----------
    ds, side
        The data set, and the observed side of its split.
    metrics
        The metrics.
    halvings, seed
        Number of halvings, and their seed.
    without
        {PANEL.METRIC: why} of those that no trivial prediction has a value of.
    """
    if not ds.has_controls or ds.metadata.level != "cell":
        return _of_given_halves(ds, side, metrics)
    rng = np.random.default_rng([seed, 29])
    draws: dict[str, list[float]] = {_name(m): [] for m in metrics}
    by_condition: dict[str, list[FloatArray]] = {}
    scored = [m for m in metrics if _name(m) not in _BY_DEFINITION]
    for i in range(halvings):
        halves = halved(ds, side, rng)
        if halves is None:
            return {_name(m): {"reason": _NO_HALVES} for m in metrics}, {}
        now = [m for m in scored if i == 0 or m.needs != "cells"]
        scores, each = _scores(now, _of_halves(ds, side, halves), "cell")
        for name, value in scores.items():
            if value is not None:
                draws[name].append(value)
        for name, kept in each.items():
            values = np.full(len(side.conditions), np.nan)
            values[halves.keep] = kept
            by_condition.setdefault(name, []).append(values)
    draws |= {n: [value] for n, value in _BY_DEFINITION.items() if n in draws and n not in without}
    out: dict[str, Any] = {}
    for m in metrics:
        drawn = draws[_name(m)]
        if drawn:
            half = float(np.mean(drawn))
            free = _log_score_of_truth(side) if _name(m) == _LOG_SCORE else noise_free(m.name, half)
            out[_name(m)] = {"half": half, **({"reason": _NO_RULE} if free is None else {"noise_free": free})}
        elif _name(m) in _BY_DEFINITION:
            out[_name(m)] = {"reason": without[_name(m)]}
        else:
            out[_name(m)] = {"reason": f"half as a prediction of the other half: {m.undefined}"}
    return out, {name: mean_of_draws(values) for name, values in by_condition.items()}


def _of_given_halves(
    ds: PerturbDataset, side: ObservedSide, metrics: list[Metric]
) -> tuple[dict[str, Any], _ByCondition]:
    """Return what `_ceiling` does for data without cells, of halves that came with them."""
    out: dict[str, Any] = {_name(m): {"reason": _NO_CELLS} for m in metrics}
    given = given_halves(ds, side)
    if given is None:
        return out, {}
    var = np.broadcast_to(_known_variance(((given[0] - given[1]) ** 2).mean(axis=0)), side.observed.shape)
    comparisons = [
        _comparison(ds, replace(side, observed=seen, control=None, shared={}), guess, np.array(var), None)
        for guess, seen in (given, given[::-1])
    ]
    scored = [_scores(metrics, c, ds.metadata.level) for c in comparisons]
    by_condition: _ByCondition = {}
    for m in metrics:
        values = [v for scores, _ in scored if (v := scores[_name(m)]) is not None]
        if len(values) < len(scored) or _name(m) in _BY_DEFINITION:
            continue
        half = float(np.mean(values))
        free = None if _name(m) == _LOG_SCORE else noise_free(m.name, half)
        out[_name(m)] = {"half": half, **({"reason": _NO_RULE} if free is None else {"noise_free": free})}
        each = [of[_name(m)] for _, of in scored if _name(m) in of]
        if each:
            by_condition[_name(m)] = mean_of_draws(each)
    return out, by_condition


def _log_score_of_truth(side: ObservedSide) -> float:
    """Return the expected negative log likelihood of the observed delta under its own sampling distribution."""
    var = _known_variance(side.s2.mean(axis=0))
    return float(np.mean(0.5 * (np.log(2 * np.pi * var) + 1.0)))


def _known_variance(var: FloatArray) -> FloatArray:
    """Return variances [G] in which a gene that does not vary has the lowest of those that do.

    The log likelihood pays without bound for a variance of nearly 0, so that floors would be above every model.
    """
    lowest = float(np.min(var, initial=np.inf, where=var > _NO_VARIANCE))
    return np.where(var > _NO_VARIANCE, var, lowest if np.isfinite(lowest) else _NO_VARIANCE)


def _name(m: Metric) -> str:
    return f"{m.panel}.{m.name}"


def _scores(
    metrics: list[Metric], comparison: Comparison, level: str
) -> tuple[dict[str, float | None], _ByCondition]:
    """Return {PANEL.METRIC: value over all conditions}, None where it is undefined or cannot be computed, and by condition."""
    out: dict[str, float | None] = {}
    by_condition: _ByCondition = {}
    everything = np.zeros(len(comparison), dtype=np.int64)
    for m in metrics:
        value = np.nan
        try:
            found = run_metric(m, comparison, level)
            value = float(found.grouped(everything, 1)[0])
        except MetricError:
            # A panel of someone else's may need what a half does not have; then there is no bound.
            pass
        else:
            if m.aggregate == "mean":
                by_condition[_name(m)] = found.values
        out[_name(m)] = value if np.isfinite(value) else None
        give_back()
    return out, by_condition


def _trivial(ds: PerturbDataset, side: ObservedSide, mean: FloatArray, spread: FloatArray) -> Comparison:
    """Return the comparison with a prediction that is the same for all conditions, and its spread [G] over train."""
    var = np.array(np.broadcast_to(_known_variance(spread), mean.shape))
    cells = cells_of(ds, side.conditions, side.rows, side.codes, mean, var, Generator())
    return _comparison(ds, side, mean, var, cells)


def _comparison(
    ds: PerturbDataset, side: ObservedSide, mean: FloatArray, var: FloatArray, cells: Any
) -> Comparison:
    return Comparison(
        conditions=side.conditions,
        genes=ds.genes,
        observed=side.observed,
        predicted=np.asarray(mean, dtype=np.float64),
        predicted_var=var,
        train_mean=side.train_mean,
        control=side.control,
        n=side.n,
        shared_control=side.shared_control,
        s2=side.s2,
        train=side.train,
        cells=cells,
        observed_shared=side.shared,
    )


def _of_halves(ds: PerturbDataset, side: ObservedSide, halves: Halved) -> Comparison:
    """Return the comparison of the second half of each condition, observed, with the first, predicted."""
    keep = np.flatnonzero(halves.keep)
    rows = [_rows_of(side, halves.half == s, keep) for s in (0, 1)]
    var = np.array(np.broadcast_to(_known_variance(4 * side.s2.mean(axis=0)), (len(keep), len(ds.genes))))
    kept = ObservedSide(
        conditions=side.conditions.iloc[keep],
        rows=np.concatenate(rows[1]),
        codes=np.repeat(np.arange(len(keep)), [len(r) for r in rows[1]]),
        observed=halves.delta[1][keep],
        control=halves.control[keep],
        train_mean=side.train_mean,
        n=np.asarray([len(r) for r in rows[1]], dtype=np.int64),
        shared_control=side.shared_control[keep],
        s2=side.s2[keep] * 2,
        train=side.train,
    )
    mean = halves.delta[0][keep]
    first = np.concatenate(rows[0])
    cells = cells_of(ds, kept.conditions, kept.rows, kept.codes, mean, var, Generator(), also=first)
    if cells is not None:
        own: list[IntArray | None] = [cells.position(r) for r in rows[0]]
        cells = replace(cells, own=cells.X, own_rows=own, own_counts=cells.counts)
    return _comparison(ds, kept, mean, var, cells)


def _rows_of(side: ObservedSide, chosen: Any, keep: IntArray) -> list[IntArray]:
    """Return the chosen test rows of each kept condition."""
    rows, codes = side.rows[chosen], side.codes[chosen]
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(side.conditions) + 1))
    found = [np.sort(rows[order[a:b]]) for a, b in pairwise(ends)]
    return [found[i] for i in keep]
