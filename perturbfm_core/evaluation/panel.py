"""Panels: named sets of metrics that are evaluated together, with undefined values counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.condition import parse_key
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS, PANEL_MODULES, Metric, SetStatistic, panel_metrics
from perturbfm_core.registry import Registry
from perturbfm_core.schema import FloatArray, IntArray

Strata = Mapping[str, Mapping[str, str]]
StrataOf = Callable[[Comparison], Strata]
SummaryOf = Callable[[Mapping[str, float | None]], Mapping[str, Any]]
ReportOf = Callable[[Comparison, Strata], Mapping[str, Any]]


@dataclass(frozen=True)
class Panel:
    """A named set of metrics.

    Attributes
    ----------
    name
        Key in ``metrics.json``; its metrics are those registered under it.
    source
        The paper or project that defines its metrics.
    headline
        The metric that ranks entries by default.
    strata
        (comparison) -> {stratum: {condition key: value}}: groups of test conditions that the panel adds for all
        panels, from the observed side alone; None for none.
    summary
        ({metric: value}) -> further content of ``metrics.json`` for the panel; None for none.
    report
        (comparison, strata) -> content of a separate file of the panel; None for none.
    """

    name: str
    source: str
    headline: str
    strata: StrataOf | None = None
    summary: SummaryOf | None = None
    report: ReportOf | None = None

    @property
    def metrics(self) -> list[Metric]:
        """Return the panel's metrics in order of registration."""
        return panel_metrics(self.name)

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the modules that define the panel's metrics and hooks."""
        functions = [m.function for m in self.metrics] + [self.strata, self.summary, self.report]
        return tuple(sorted({f.__module__ for f in functions if f is not None}))


_OF_SEVERAL = "a statistic of several conditions together"

PANELS: Registry[Panel] = Registry("panel", MetricError, PANEL_MODULES)


def add_panel(
    name: str,
    *,
    source: str,
    headline: str,
    order: int = 1000,
    strata: StrataOf | None = None,
    summary: SummaryOf | None = None,
    report: ReportOf | None = None,
) -> Panel:
    """Register a panel.

    Parameters
    ----------
    name
        Key in ``metrics.json``.
    source
        The paper or project that defines its metrics.
    headline
        The metric of the panel that ranks entries by default (checked when the panel runs).
    order
        Position in reports, smallest first.
    strata, summary, report
        See `Panel`.
    """
    return PANELS.add(name, Panel(name, source, headline, strata, summary, report), order)


@dataclass(frozen=True, eq=False)
class MetricValues:
    """One metric on one comparison.

    Attributes
    ----------
    metric
        The metric.
    values
        float64 [C], NaN where undefined.
    status
        ``ok`` or ``not_applicable`` (then all values are NaN).
    reason
        Why, if not applicable.
    parts
        For a ratio, its (numerator, denominator), each float64 [C, parts], NaN where a part is undefined.
    statistic
        For a set metric, the function from positions of conditions to its value.
    """

    metric: Metric
    values: FloatArray
    status: str = "ok"
    reason: str | None = None
    parts: tuple[FloatArray, FloatArray] | None = None
    statistic: SetStatistic | None = None

    def grouped(self, codes: IntArray, n: int) -> FloatArray:
        """Return float64 [n], the values of groups of conditions, NaN where undefined.

        Parameters
        ----------
        codes
            Group of each condition [C].
        n
            Number of groups.
        """
        if self.statistic is not None:
            members = [np.flatnonzero(codes == i) for i in range(n)]
            return np.asarray([self.statistic(m) if len(m) > 1 else np.nan for m in members])
        if self.parts is None:
            return _ratio_of_sums(self.values, np.ones(len(self.values)), codes, n)
        above, below = (x.T for x in self.parts)
        ratios = [_ratio_of_sums(a, b, codes, n) for a, b in zip(above, below, strict=True)]
        return np.asarray(np.mean(ratios, axis=0))


def _ratio_of_sums(numerator: FloatArray, denominator: FloatArray, codes: IntArray, n: int) -> FloatArray:
    """Return [n]: sums of numerators over sums of denominators, over the conditions where both are defined."""
    ok = np.isfinite(numerator) & np.isfinite(denominator)
    above = np.bincount(codes[ok], weights=numerator[ok], minlength=n)
    below = np.bincount(codes[ok], weights=denominator[ok], minlength=n)
    return np.asarray(np.divide(above, below, out=np.full(n, np.nan), where=below != 0))


@dataclass(frozen=True, eq=False)
class PanelScores:
    """All metrics of one or more panels on one comparison.

    Attributes
    ----------
    conditions
        Condition table [C], index = key.
    results
        One `MetricValues` per metric.
    strata
        {stratum: {condition key: value}}, groups of conditions to average over.
    """

    conditions: pd.DataFrame
    results: list[MetricValues]
    strata: dict[str, dict[str, str]]

    def table(self) -> pd.DataFrame:
        """Return the scores in long form: panel, metric, version, direction, scope, key, value, n, status, reason.

        Scopes are the conditions themselves, then means over all of them, by perturbation, by context and by
        stratum (for a ratio metric the ratio of means, for a set metric its statistic). `n` is the number of
        conditions in the group; a mean leaves undefined values out, and `reason` counts them.
        """
        scope, key, codes = self._layout
        blocks = [self._block(result, codes) for result in self.results]
        n_rows = len(key)
        metrics = [result.metric for result in self.results]
        columns = {
            "panel": [m.panel for m in metrics],
            "metric": [m.name for m in metrics],
            "metric_version": [m.version for m in metrics],
            "direction": [m.direction for m in metrics],
        }
        table = {
            name: np.repeat(np.asarray(values, dtype=object), n_rows) for name, values in columns.items()
        }
        table |= {"scope": np.tile(scope, len(metrics)), "key": np.tile(key, len(metrics))}
        for name in ("value", "n", "status", "reason"):
            table[name] = np.concatenate([block[name] for block in blocks])
        return pd.DataFrame(table)

    @cached_property
    def _layout(self) -> tuple[Any, Any, list[tuple[int, Any, Any]]]:
        """Return scope and key of every row of one metric, and (groups, group of each condition, kept groups)."""
        scopes, keys = ["condition"] * len(self.conditions), [str(k) for k in self.conditions.index]
        codes = []
        for scope, names, groups in self._groupings:
            keep = [i for i, name in enumerate(names) if name]
            scopes += [scope] * len(keep)
            keys += [names[i] for i in keep]
            codes.append((len(names), groups, np.asarray(keep, dtype=np.int64)))
        return np.asarray(scopes, dtype=object), np.asarray(keys, dtype=object), codes

    @cached_property
    def _groupings(self) -> list[tuple[str, list[str], Any]]:
        perts = [parse_key(str(k))["pert_id"] for k in self.conditions.index]
        contexts = [parse_key(str(k))["context_id"] for k in self.conditions.index]
        out: list[tuple[str, list[str], Any]] = []
        for scope, labels in (
            ("global", ["all"] * len(perts)),
            ("perturbation", perts),
            ("context", contexts),
        ):
            names, codes = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
            out.append((scope, [str(x) for x in names], codes))
        for stratum, by_condition in self.strata.items():
            labels = [by_condition.get(str(k)) or "" for k in self.conditions.index]
            names, codes = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
            keep = [bool(x) for x in names]
            if any(keep):
                out.append(("stratum", [f"{stratum}={x}" if x else "" for x in names], codes))
        return out

    def _block(self, result: MetricValues, codes: list[tuple[int, Any, Any]]) -> dict[str, Any]:
        """Return value, n, status and reason of every row of one metric."""
        defined = np.isfinite(result.values)
        reason = result.reason or result.metric.undefined
        if result.statistic is not None:
            reason = f"{_OF_SEVERAL}; {reason}"
        bad = "undefined" if result.status == "ok" else result.status
        values, counts = [result.values], [np.ones(len(defined), dtype=np.int64)]
        reasons: list[str | None] = [None if ok else reason for ok in defined]
        for n, groups, keep in codes:
            total = np.bincount(groups, minlength=n)[keep]
            good = np.bincount(groups[defined], minlength=n)[keep]
            mean = result.grouped(groups, n)[keep]
            values.append(mean)
            counts.append(total)
            if result.statistic is not None:
                reasons += [None if np.isfinite(m) else reason for m in mean]
                continue
            reasons += [
                None
                if g == t and np.isfinite(m)
                else (f"{t - g} of {t} conditions undefined: {reason}" if result.status == "ok" else reason)
                for g, t, m in zip(good, total, mean, strict=True)
            ]
        value = np.concatenate(values)
        return {
            "value": value,
            "n": np.concatenate(counts),
            "status": np.where(np.isfinite(value), "ok", bad).astype(object),
            "reason": np.asarray(reasons, dtype=object),
        }


def evaluate(
    comparison: Comparison,
    panels: Iterable[str] | None = None,
    *,
    level: str = "cell",
    strata: Mapping[str, Mapping[str, str]] | None = None,
) -> PanelScores:
    """Evaluate every metric of the given panels on a comparison.

    Parameters
    ----------
    comparison
        Observed and predicted deltas, aligned.
    panels
        Names of panels (default: all).
    level
        Level of the data set, ``cell`` or ``condition``; metrics that need cells do not apply to the latter.
    strata
        {stratum: {condition key: value}}, groups of conditions to average over.

    Raises
    ------
    MetricError
        If a metric raises, returns the wrong shape, or gives an infinite value, so that no panel is incomplete.
    """
    names = list(PANELS) if panels is None else list(panels)
    results = []
    for name in names:
        panel = PANELS.get(name)
        METRICS.get(f"{name}.{panel.headline}")
        results += [_run(metric, comparison, level) for metric in panel.metrics]
    plain = {k: dict(v) for k, v in (strata or {}).items()}
    return PanelScores(comparison.conditions, results, plain)


def _run(metric: Metric, comparison: Comparison, level: str) -> MetricValues:
    empty = np.full(len(comparison), np.nan)
    if metric.needs == "cells" and (level != "cell" or comparison.cells is None):
        return MetricValues(metric, empty, "not_applicable", "the data set has no single cells with controls")
    if metric.needs == "variance" and comparison.var_filled:
        return MetricValues(metric, empty, "not_applicable", "the prediction came without a variance")
    try:
        given = metric.function(comparison)
        if metric.aggregate == "set" and callable(given):
            return MetricValues(metric, empty, statistic=_checked(metric, given))
        arrays = [np.asarray(x, dtype=np.float64) for x in (given if isinstance(given, tuple) else (given,))]
    except Exception as error:
        msg = f"metric {metric.panel}.{metric.name} failed: {type(error).__name__}: {error}"
        raise MetricError(msg) from error
    parts = None
    if isinstance(given, tuple):
        numerator, denominator = (x.reshape(len(comparison), -1) for x in arrays)
        parts = (numerator, denominator)
        with np.errstate(invalid="ignore"):
            ratio = np.divide(*parts, out=np.full_like(numerator, np.nan), where=denominator != 0)
        values = np.asarray(ratio.mean(axis=1))
    else:
        values = arrays[0]
    if (parts is not None) != (metric.aggregate == "ratio"):
        msg = f"metric {metric.panel}.{metric.name} aggregates as {metric.aggregate} but gave {type(given).__name__}"
        raise MetricError(msg)
    infinite = any(np.isinf(x).any() for x in (values, *(parts or ())))
    if values.shape != empty.shape or infinite:
        msg = f"metric {metric.panel}.{metric.name} gave {values.shape} values, some infinite; expected {empty.shape}"
        raise MetricError(msg)
    return MetricValues(metric, values, parts=parts)


def _checked(metric: Metric, statistic: SetStatistic) -> SetStatistic:
    """Return the statistic of a set metric, wrapped so that it fails the panel if it raises or is infinite."""

    def value(positions: IntArray) -> float:
        try:
            out = float(statistic(positions))
        except Exception as error:
            msg = f"metric {metric.panel}.{metric.name} failed: {type(error).__name__}: {error}"
            raise MetricError(msg) from error
        if np.isinf(out):
            msg = f"metric {metric.panel}.{metric.name} is infinite for {len(positions)} conditions"
            raise MetricError(msg)
        return out

    return value


def metrics_json(table: pd.DataFrame) -> dict[str, Any]:
    """Return the content of ``metrics.json`` from a score table.

    {panel: {"global": {metric: value}, "per_perturbation": {key: {metric: value}}, "per_context": ...,
    "per_stratum": ...}, "notes": {place: reason}}; an undefined value is None with a reason in the notes.
    Statistics with a level (``coverage_0.9``) are gathered as {"coverage": {"0.9": value}} as well.
    """
    out: dict[str, Any] = {}
    notes: dict[str, str] = {}
    places = {"perturbation": "per_perturbation", "context": "per_context", "stratum": "per_stratum"}
    rows = table[table["scope"] != "condition"]
    for row in rows.itertuples(index=False):
        value = None if row.status != "ok" else float(row.value)
        panel = out.setdefault(row.panel, {"global": {}, "per_perturbation": {}, "per_context": {}})
        if row.scope == "global":
            panel["global"][row.metric] = value
            stem, _, level = row.metric.rpartition("_")
            if stem and level.replace(".", "", 1).isdigit() and "." in level:
                panel.setdefault(stem, {})[level] = value
        else:
            panel.setdefault(places[row.scope], {}).setdefault(row.key, {})[row.metric] = value
        if isinstance(row.reason, str):
            where = "global" if row.scope == "global" else f"{places[row.scope]}.{row.key}"
            notes[f"{row.panel}.{where}.{row.metric}"] = row.reason
    for name, content in out.items():
        summary = PANELS.get(name).summary if name in PANELS else None
        if summary is not None:
            content |= summary(content["global"])
    out["notes"] = notes
    return out


def headlines(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return {panel.metric: value} of the headline metric of every panel in the content of ``metrics.json``."""
    return {
        f"{name}.{panel.headline}": metrics[name]["global"].get(panel.headline)
        for name, panel in PANELS.items()
        if name in metrics
    }
