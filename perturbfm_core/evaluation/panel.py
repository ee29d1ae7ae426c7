"""Panels: named sets of metrics that are evaluated together, with undefined values counted."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.config import check_key
from perturbfm_core.data.condition import parse_key
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS, PANEL_MODULES, Metric, panel_metrics
from perturbfm_core.evaluation.metric_values import MetricValues, run_metric, table_rows, without_counts
from perturbfm_core.registry.members import Registry

Strata = Mapping[str, Mapping[str, str]]
StrataOf = Callable[[Comparison], Strata]
SummaryOf = Callable[[Mapping[str, float | None], Mapping[str, Any] | None], Mapping[str, Any]]
ReportOf = Callable[[Comparison, Strata], Mapping[str, Any]]
ScaleOf = Callable[[Comparison], Mapping[str, Any]]


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
        ({metric: value}, how predicted cells were generated or None) -> further content of ``metrics.json`` for the
        panel; None for none.
    report
        (comparison, strata) -> content of a separate file of the panel; None for none.
    scale
        (comparison) -> values of reference predictions that scores are relative to, from the observed side alone;
        they are kept for all entries on a split (see `scale_of`). None for none.
    """

    name: str
    source: str
    headline: str
    strata: StrataOf | None = None
    summary: SummaryOf | None = None
    report: ReportOf | None = None
    scale: ScaleOf | None = None

    @property
    def metrics(self) -> list[Metric]:
        """Return the panel's metrics in order of registration."""
        return panel_metrics(self.name)

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the modules that define the panel's metrics and hooks."""
        functions = [m.function for m in self.metrics] + [self.strata, self.summary, self.report, self.scale]
        return tuple(sorted({f.__module__ for f in functions if f is not None}))


class PanelRegistry(Registry[Panel]):
    """The registry of panels; a metric of a panel that does not exist is refused when panels are read.

    Not earlier, as a metric may be registered before its panel.
    """

    _checked = (0, 0)

    @property
    def _items(self) -> dict[str, Panel]:
        items = super()._items
        sizes = (len(METRICS), len(items))
        if not PANEL_MODULES.running and sizes != self._checked:
            _check_panels(items)
            self._checked = sizes
        return items


def _check_panels(panels: Iterable[str]) -> None:
    """Raise `MetricError` if there is no panel of some registered metric."""
    known = list(panels)
    for item in METRICS.values():
        if item.panel not in known:
            close = difflib.get_close_matches(item.panel, known, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            place = getattr(item.function, "__module__", "unknown module")
            msg = (
                f"metric {item.panel}.{item.name} of {place}: there is no panel {item.panel!r}{hint}; name a known one "
                f"({', '.join(sorted(known))}) or add it with add_panel"
            )
            raise MetricError(msg)


PANELS: Registry[Panel] = PanelRegistry("panel", MetricError, PANEL_MODULES)


def add_panel(
    name: str,
    *,
    source: str,
    headline: str,
    order: int = 1000,
    strata: StrataOf | None = None,
    summary: SummaryOf | None = None,
    report: ReportOf | None = None,
    scale: ScaleOf | None = None,
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
    strata, summary, report, scale
        See `Panel`.

    Raises
    ------
    MetricError, ConfigError
        If the name is no valid key or taken, a text is empty, or a hook is no function.
    """
    texts: dict[str, Any] = {"name": name, "source": source, "headline": headline}
    for field, text in texts.items():
        if not (isinstance(text, str) and text.strip()):
            msg = f"panel {name!r}: {field} must be text that is not empty, found {text!r}"
            raise MetricError(msg)
    check_key(name, "name of a panel")
    hooks: dict[str, Any] = {"strata": strata, "summary": summary, "report": report, "scale": scale}
    for field, hook in hooks.items():
        if not (hook is None or callable(hook)):
            msg = f"panel {name!r}: {field} must be a function or None, found {type(hook).__name__}"
            raise MetricError(msg)
    return PANELS.add(name, Panel(name, source, headline, strata, summary, report, scale), order)


def scale_key(panel: str) -> str:
    """Return the name under which comparisons with one observed side share the scale of a panel."""
    return f"{panel}.scale"


def scale_of(comparison: Comparison, panel: str) -> Mapping[str, Any]:
    """Return the scale of a panel, as it was stored beside the split or computed now.

    Raises
    ------
    MetricError
        If the panel has none.
    """
    compute = PANELS.get(panel).scale
    if compute is None:
        msg = f"panel {panel!r} has no scale"
        raise MetricError(msg)
    return comparison.once_per_observed(scale_key(panel), lambda: compute(comparison))


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
        conditions in the group; a mean leaves undefined values out, and `reason` counts them. A value that is defined
        has a reason where something must be said about it (see `Metric.places`).
        """
        scope, key, codes = self._layout
        blocks = [table_rows(result, codes) for result in self.results]
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
        results += [run_metric(metric, comparison, level) for metric in panel.metrics]
    plain = {k: dict(v) for k, v in (strata or {}).items()}
    return PanelScores(comparison.conditions, results, plain)


def metrics_json(
    table: pd.DataFrame,
    scales: Mapping[str, Mapping[str, Any]] | None = None,
    generator: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of ``metrics.json``.

    {panel: {"global": {metric: value}, "per_perturbation": {key: {metric: value}}, "per_context": ...,
    "per_stratum": ...}, "notes": {place: reason}}; an undefined value is None with a reason in the notes.
    Statistics with a level (``coverage_0.9``) are gathered as {"coverage": {"0.9": value}} as well.

    Parameters
    ----------
    table
        Scores in long form.
    scales
        {panel: its scale} of panels that have one.
    generator
        How predicted cells were generated (see `Cells.generated_by`); None where none were.
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
            content |= summary(content["global"], generator)
        if scales and name in scales:
            content["scale"] = dict(scales[name])
    out["notes"] = notes
    return out


def of_groups(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``metrics.json`` as a run keeps it: without what grows with the number of conditions.

    Values by perturbation are in the scores; of the notes, those of groups stay where there is no value at all and
    the reason is, but for the number of conditions, not that of all conditions.
    """
    out = {
        name: {k: v for k, v in content.items() if k != "per_perturbation"} if name != "notes" else content
        for name, content in metrics.items()
    }
    notes = metrics.get("notes", {})
    kept = {k: v for k, v in notes.items() if k.split(".", 2)[1] == "global"}
    of_all = {k: without_counts(v) for k, v in kept.items()}
    for name, content in out.items():
        for place in () if name == "notes" else ("per_context", "per_stratum"):
            for key, values in content.get(place, {}).items():
                for metric, value in values.items():
                    where = f"{name}.{place}.{key}.{metric}"
                    reason = notes.get(where) if value is None else None
                    if reason and without_counts(reason) != of_all.get(f"{name}.global.{metric}"):
                        kept[where] = reason
    if "notes" in out:
        out["notes"] = kept
    return out


def headlines(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return {panel.metric: value} of the headline metric of every panel in the content of ``metrics.json``."""
    return {
        f"{name}.{panel.headline}": metrics[name]["global"].get(panel.headline)
        for name, panel in PANELS.items()
        if name in metrics
    }
