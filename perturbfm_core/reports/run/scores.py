"""The scores of a run in the form of its report: headline metric, tables by panel, values by condition and by group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.condition import parse_key
from perturbfm_core.evaluation.metric import METRICS, Metric
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL, marks_of
from perturbfm_core.reports.html import DASH, number
from perturbfm_core.reports.run.values import compact
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.folder import SplitStats

BETTER = {"max": "higher", "min": "lower", "target": "nominal"}
MOST_COLUMNS = 10
# Of `leaderboard.headline.Marks`, in the order of the tables.
BOUNDS = ("half", "noise_free", "train_mean", "control_mean", "null")


@dataclass(frozen=True, eq=False)
class ReportScores:
    """The long table of a run's scores, read once.

    Attributes
    ----------
    table
        Scores in long form (see `PanelScores.table`).
    """

    table: pd.DataFrame

    @cached_property
    def overall(self) -> pd.DataFrame:
        """Return the rows over all test conditions."""
        return self.table[self.table["scope"] == "global"]

    @cached_property
    def headline(self) -> tuple[str, str]:
        """Return (panel, metric): that of the benchmark, else the first headline or metric that is defined here."""
        ok = self.overall[self.overall["status"] == "ok"]
        defined = set(zip(ok["panel"], ok["metric"], strict=True))
        if (HEADLINE_PANEL, HEADLINE_METRIC) in defined:
            return HEADLINE_PANEL, HEADLINE_METRIC
        for name, panel in PANELS.items():
            for metric in [panel.headline, *(m.name for m in panel.metrics)]:
                if (name, metric) in defined:
                    return name, metric
        first = self.table.iloc[0]
        return str(first["panel"]), str(first["metric"])

    @property
    def metric(self) -> Metric | None:
        """Return the headline metric, None if it is not registered any more."""
        name = ".".join(self.headline)
        return METRICS.get(name) if name in METRICS else None

    @cached_property
    def value(self) -> float | None:
        """Return the headline over all test conditions, None where it is undefined."""
        panel, metric = self.headline
        mine = self.overall[(self.overall["panel"] == panel) & (self.overall["metric"] == metric)]
        row = mine.iloc[0] if len(mine) else None
        return None if row is None or row["status"] != "ok" else float(row["value"])

    @property
    def direction(self) -> str:
        """Return the direction of the headline."""
        panel, metric = self.headline
        mine = self.overall[(self.overall["panel"] == panel) & (self.overall["metric"] == metric)]
        return str((mine if len(mine) else self.table)["direction"].iloc[0])

    @property
    def version(self) -> str:
        """Return the version of the headline that the run was scored by."""
        panel, metric = self.headline
        mine = self.overall[(self.overall["panel"] == panel) & (self.overall["metric"] == metric)]
        return str((mine if len(mine) else self.table)["metric_version"].iloc[0])

    @cached_property
    def _first(self) -> pd.DataFrame:
        """Return the rows of the headline's panel."""
        rows = np.flatnonzero((self.table["panel"] == self.headline[0]).to_numpy())
        # The rows of a panel follow each other, and a slice copies nothing.
        whole = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        at: Any = slice(rows[0], rows[-1] + 1) if whole else rows
        wanted = ("metric", "scope", "key", "value", "status", "reason")
        return pd.DataFrame({name: self.table[name].to_numpy()[at] for name in wanted}, copy=False)

    @cached_property
    def by_condition(self) -> pd.DataFrame:
        """Return value, status and reason of the headline by condition key."""
        mine = self._first[
            (self._first["metric"] == self.headline[1]) & (self._first["scope"] == "condition")
        ]
        return mine.set_index("key")[["value", "status", "reason"]]

    @cached_property
    def goodness(self) -> pd.Series:
        """Return the conditions where the headline is defined, worst first, with their values."""
        ok = self.by_condition.loc[self.by_condition["status"] == "ok", "value"].astype(float)
        metric = self.metric
        badness = ok.map(metric.badness) if metric is not None else -ok
        return ok[(-badness).sort_values(kind="stable").index]

    @cached_property
    def columns(self) -> list[str]:
        """Return the metrics of the grouped tables: the headline, then the first ones of its panel."""
        names = dict.fromkeys([self.headline[1], *self._first["metric"]])
        return list(names)[:MOST_COLUMNS]

    def grouped(self, scope: str) -> tuple[list[str], list[list[float | None]]]:
        """Return (keys, values by key and column) of one scope."""
        part = self._first[(self._first["scope"] == scope) & self._first["metric"].isin(self.columns)]
        if part.empty:
            return [], []
        keys = list(dict.fromkeys(part["key"]))
        regular = _regular(part, keys, self.columns)
        if regular is not None:
            return [str(k) for k in keys], compact(regular)
        wide = part.pivot_table(index="key", columns="metric", values="value", aggfunc="first", dropna=False)
        wide = wide.reindex(index=keys, columns=self.columns)
        return [str(k) for k in keys], compact(wide.to_numpy(dtype=float))

    def data_table(self, scope: str) -> dict[str, Any] | None:
        """Return one scope as the data of a table, None where there is nothing to show."""
        keys, rows = self.grouped(scope)
        if not keys:
            return None
        return {
            "columns": [{"name": scope, "text": True}, *({"name": c} for c in self.columns)],
            "rows": [[key, *row] for key, row in zip(keys, rows, strict=True)],
        }

    def conditions_table(self) -> dict[str, Any]:
        """Return the conditions as the data of a table: perturbation, context, metrics, reason."""
        keys, rows = self.grouped("condition")
        fields = [parse_key(key) for key in keys]
        more = [f for f in ("modality", "doses", "covariates") if len({x[f] for x in fields}) > 1]
        reasons = self.by_condition["reason"].to_dict()
        return {
            "columns": [
                *({"name": name, "text": True} for name in ("perturbation", "context", *more)),
                *({"name": c} for c in self.columns),
                {"name": "note", "text": True},
            ],
            "rows": [
                [x["pert_id"], x["context_id"], *(x[f] for f in more), *row, reasons.get(key) or ""]
                for key, x, row in zip(keys, fields, rows, strict=True)
            ],
            "keys": keys,
        }


def _regular(part: pd.DataFrame, keys: list[str], columns: list[str]) -> FloatArray | None:
    """Return values by key and metric of a table whose metrics list the same keys in the same order; else None."""
    n, names = len(keys), part["metric"].to_numpy()
    if len(part) != n * len(columns) or set(names[::n]) != set(columns):
        return None
    blocks = part["key"].to_numpy().reshape(-1, n)
    if not (blocks == blocks[0]).all() or not (names.reshape(-1, n) == names[::n, None]).all():
        return None
    values = part["value"].to_numpy(dtype=np.float64).reshape(-1, n)
    order = [list(names[::n]).index(c) for c in columns]
    return np.asarray(values[order].T)


def panel_tables(scores: ReportScores, stats: SplitStats | None) -> list[dict[str, Any]]:
    """Return per panel its name, source, headline, and one row per metric with ceilings and floors."""
    ceiling, floor = (stats.ceiling, stats.floor) if stats else (None, None)
    out = []
    for name, part in scores.overall.groupby("panel", sort=False):
        rows = []
        for row in part.itertuples(index=False):
            full = f"{row.panel}.{row.metric}"
            metric = METRICS.get(full) if full in METRICS else None
            marks = None if metric is None else marks_of(ceiling, floor, metric)
            bounds = [DASH] * 5 if marks is None else [number(getattr(marks, k)) for k in BOUNDS]
            value = number(row.value if row.status == "ok" else None)
            rows.append([row.metric, value, BETTER[row.direction], *bounds, row.reason or ""])
        panel = PANELS.get(str(name)) if name in PANELS else None
        shown = next((r for r in rows if panel is not None and r[0] == panel.headline), rows[0])
        out.append(
            {
                "name": str(name),
                "source": panel.source if panel is not None else "",
                "headline": shown[0],
                "value": shown[1],
                "bounded": any(cell != DASH for r in rows for cell in r[3:8]),
                "rows": rows,
                "short": [[*r[:3], r[8]] for r in rows],
            }
        )
    return out
