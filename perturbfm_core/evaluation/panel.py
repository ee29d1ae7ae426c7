"""Panels: named sets of metrics, evaluated together and averaged without dropping anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.condition import parse_key
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS, Metric, panel_metrics
from perturbfm_core.registry import Registry
from perturbfm_core.schema import FloatArray


@dataclass(frozen=True)
class Panel:
    """A named set of metrics.

    Attributes
    ----------
    name
        Key in ``metrics.json``; its metrics are those registered under it.
    source
        The paper or project whose numbers it gives.
    headline
        The metric that ranks entries by default.
    """

    name: str
    source: str
    headline: str

    @property
    def metrics(self) -> list[Metric]:
        """Return the panel's metrics in order of registration."""
        return panel_metrics(self.name)


PANELS: Registry[Panel] = Registry("panel", MetricError)


def add_panel(name: str, *, source: str, headline: str) -> Panel:
    """Register a panel; `headline` must be one of its metrics (checked when it runs)."""
    return PANELS.add(name, Panel(name, source, headline))


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
    """

    metric: Metric
    values: FloatArray
    status: str = "ok"
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class PanelScores:
    """All metrics of one or more panels on one comparison."""

    conditions: pd.DataFrame
    results: list[MetricValues]
    strata: dict[str, dict[str, str]]

    def table(self) -> pd.DataFrame:
        """Return the scores in long form: panel, metric, version, direction, scope, key, value, n, status, reason.

        Scopes are the conditions themselves, then means over all of them, by perturbation, by context and by
        stratum. `n` is the number of conditions a mean covers; a mean leaves undefined values out and says
        in `reason` how many.
        """
        frames = [frame for result in self.results for frame in self._frames(result)]
        return pd.concat(frames, ignore_index=True)

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

    def _frames(self, result: MetricValues) -> Iterable[pd.DataFrame]:
        metric, values = result.metric, result.values
        base = {
            "panel": metric.panel,
            "metric": metric.name,
            "metric_version": metric.version,
            "direction": metric.direction,
        }
        defined = np.isfinite(values)
        reason = result.reason or metric.undefined
        status = np.where(defined, "ok", "undefined" if result.status == "ok" else result.status)
        yield pd.DataFrame(
            {
                **base,
                "scope": "condition",
                "key": self.conditions.index.astype(str),
                "value": values,
                "n": 1,
                "status": status,
                "reason": [None if ok else reason for ok in defined],
            }
        )
        for scope, names, codes in self._groupings:
            total = np.bincount(codes, minlength=len(names))
            good = np.bincount(codes[defined], minlength=len(names))
            sums = np.bincount(codes[defined], weights=values[defined], minlength=len(names))
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.where(good > 0, sums / np.maximum(good, 1), np.nan)
            group_status = np.where(good > 0, "ok", "undefined" if result.status == "ok" else result.status)
            missing = [
                None
                if g == t
                else (f"{t - g} of {t} conditions undefined: {reason}" if result.status == "ok" else reason)
                for g, t in zip(good, total, strict=True)
            ]
            frame = pd.DataFrame(
                {
                    **base,
                    "scope": scope,
                    "key": names,
                    "value": mean,
                    "n": total,
                    "status": group_status,
                    "reason": missing,
                }
            )
            yield frame[frame["key"] != ""] if scope == "stratum" else frame


def evaluate(
    comparison: Comparison,
    panels: Iterable[str] | None = None,
    *,
    level: str = "cell",
    strata: Mapping[str, Mapping[str, str]] | None = None,
) -> PanelScores:
    """Evaluate every metric of the given panels (default: all) on a comparison.

    Raises
    ------
    MetricError
        If a metric raises, returns the wrong shape, or gives an infinite value: a panel is complete or fails.
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
        values = np.asarray(metric.function(comparison), dtype=np.float64)
    except Exception as error:
        msg = f"metric {metric.panel}.{metric.name} failed: {type(error).__name__}: {error}"
        raise MetricError(msg) from error
    if values.shape != empty.shape or np.isinf(values).any():
        msg = f"metric {metric.panel}.{metric.name} gave {values.shape} values, some infinite; expected {empty.shape}"
        raise MetricError(msg)
    return MetricValues(metric, values)


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
        if row.reason:
            where = "global" if row.scope == "global" else f"{places[row.scope]}.{row.key}"
            notes[f"{row.panel}.{where}.{row.metric}"] = row.reason
    if "uncertainty" in out:
        out["uncertainty"]["nll"] = out["uncertainty"]["global"].get("nll")
    out["notes"] = notes
    return out
