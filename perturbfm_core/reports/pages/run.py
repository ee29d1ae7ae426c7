"""HTML report of one run: scores, ceilings and floors, plots, calibration and provenance."""

from __future__ import annotations

from typing import Any

import pandas as pd

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.reports.html import DASH, number, render
from perturbfm_core.reports.plots import calibration as calibration_plots
from perturbfm_core.reports.plots import condition as plots
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import Split
from perturbfm_core.store.run_record import RunRecord

_BETTER = {"max": "higher", "min": "lower", "target": "nominal"}


def run_report(
    record: RunRecord,
    table: pd.DataFrame,
    comparison: Comparison,
    split: Split,
    stats: SplitStats | None,
    calibration: dict[str, Any] | None = None,
) -> str:
    """Return the HTML report of a run.

    Parameters
    ----------
    record
        Content of ``config.json``.
    table
        Scores in long form (see `PanelScores.table`).
    comparison
        Aligned observation and prediction, for the plots.
    split, stats
        The split, and its ceilings, floors and fold counts; None if unknown.
    calibration
        Content of ``calibration.json``; None without it.
    """
    headline = _headline(table)
    values = _condition_values(table, headline)
    columns = _columns(table)
    return render(
        "run.html",
        record=record,
        flags=_flags(record),
        n_conditions=len(comparison),
        panels=_panels(table, stats),
        ranked_by=f"{headline[0]}.{headline[1]}",
        scatter=_scatter(comparison, values),
        calibration=_calibration(calibration),
        curves=calibration_plots.curves(calibration or {}),
        covered=calibration_plots.coverage_by_group(calibration or {}),
        fans=calibration_plots.fans(comparison, _picks(comparison, values)),
        columns=columns,
        per_context=_grouped(table, "context", columns),
        per_perturbation=_grouped(table, "perturbation", columns),
        per_stratum=_grouped(table, "stratum", columns),
        folds=[[f, c["conditions"], c["rows"]] for f, c in (stats.counts if stats else {}).items()],
        fold_bars=_fold_bars(stats),
        split=split,
        provenance=_provenance(record),
    )


def _headline(table: pd.DataFrame) -> tuple[str, str]:
    """Return (panel, metric): the first panel's headline that is defined somewhere."""
    for name, panel in PANELS.items():
        for metric in [panel.headline, *(m.name for m in panel.metrics)]:
            mine = table[
                (table["panel"] == name) & (table["metric"] == metric) & (table["scope"] == "global")
            ]
            if (mine["status"] == "ok").any():
                return name, metric
    first = table.iloc[0]
    return str(first["panel"]), str(first["metric"])


def _columns(table: pd.DataFrame) -> list[str]:
    first = table["panel"].iloc[0]
    return list(dict.fromkeys(table.loc[table["panel"] == first, "metric"]))[:10]


def _condition_values(table: pd.DataFrame, headline: tuple[str, str]) -> pd.Series:
    mine = table[
        (table["panel"] == headline[0]) & (table["metric"] == headline[1]) & (table["scope"] == "condition")
    ]
    badness = PANELS.get(headline[0])
    metric = next(m for m in badness.metrics if m.name == headline[1])
    ok = mine[mine["status"] == "ok"]
    return pd.Series([-metric.badness(v) for v in ok["value"]], index=ok["key"].to_numpy()).sort_values(
        kind="stable"
    )


def _picks(comparison: Comparison, goodness: pd.Series) -> list[tuple[str, int]]:
    """Return (title, position) of the worst, median and best condition, none where there is no order."""
    if goodness.empty:
        return []
    position = {str(k): i for i, k in enumerate(comparison.conditions.index)}
    picks = dict.fromkeys([("worst", 0), ("median", len(goodness) // 2), ("best", len(goodness) - 1)])
    out = []
    for label, at in picks:
        i = position[str(goodness.index[at])]
        out.append((f"{label}: {comparison.perturbations[i]} in {comparison.contexts[i]}", i))
    return out


def _scatter(comparison: Comparison, goodness: pd.Series) -> str | None:
    panels = [
        (title, comparison.observed[i], comparison.predicted[i]) for title, i in _picks(comparison, goodness)
    ]
    return plots.scatter_panels(panels) if panels else None


def _calibration(calibration: dict[str, Any] | None) -> list[list[str]]:
    """Return how the intervals were made, as rows of a table."""
    if not calibration:
        return []
    guarantee = calibration.get("guarantee", DASH)
    if isinstance(guarantee, dict):
        guarantee = "; ".join(guarantee.values())
    worst = calibration.get("worst_group")
    effective = calibration.get("effective_units")
    rows = [
        ["method", calibration.get("method", "none")],
        ["variance", calibration.get("variance", DASH)],
        [
            "calibrated on",
            f"{calibration['n_units']} units ({calibration['unit']}), {calibration['residuals']}",
        ]
        if "n_units" in calibration
        else ["not calibrated", calibration.get("reason", DASH)],
        ["guarantee", guarantee],
        [
            "groups",
            ", ".join(
                f"{g['group']}: {g['n_units']} units" + ("" if g["own_quantiles"] else ", too few")
                for g in calibration.get("groups", [])
            )
            or DASH,
        ],
        [
            "effective units",
            f"at least {number(effective['min'], 1)}, {effective['n_widened']} conditions widened"
            if effective
            else DASH,
        ],
        [
            "worst group",
            f"{worst['axis']} {worst['group']}: {number(worst['value'])} at {worst['level']}"
            if worst
            else DASH,
        ],
    ]
    return [[str(a), str(b)] for a, b in rows]


def _panels(table: pd.DataFrame, stats: SplitStats | None) -> list[tuple[str, list[list[str]]]]:
    ceiling = (stats.ceiling if stats else None) or {}
    floor = (stats.floor if stats else None) or {}
    out = []
    rows = table[table["scope"] == "global"]
    for panel, part in rows.groupby("panel", sort=False):
        bounded = panel == "delta"
        lines = []
        for row in part.itertuples(index=False):
            bounds = [DASH] * 5
            if bounded:
                half = ceiling.get(row.metric)
                bounds = [
                    *(
                        number(half.get(k) if isinstance(half, dict) else None)
                        for k in ("half", "noise_free")
                    ),
                    *(
                        number((floor.get(k) or {}).get(row.metric))
                        for k in ("train_mean", "control_mean", "null")
                    ),
                ]
            value = number(row.value if row.status == "ok" else None)
            lines.append([row.metric, value, _BETTER[row.direction], *bounds, row.reason or ""])
        out.append((str(panel), lines))
    return out


def _grouped(table: pd.DataFrame, scope: str, columns: list[str]) -> list[list[str]]:
    part = table[(table["scope"] == scope) & (table["panel"] == table["panel"].iloc[0])]
    if part.empty:
        return []
    wide = part.pivot_table(index="key", columns="metric", values="value", aggfunc="first", dropna=False)
    wide = wide.reindex(columns=columns)
    return [
        [str(key), *(number(v) for v in values)]
        for key, values in zip(wide.index, wide.to_numpy(), strict=True)
    ]


def _fold_bars(stats: SplitStats | None) -> str | None:
    if stats is None or not stats.counts:
        return None
    return plots.bars(list(stats.counts), [float(c["rows"]) for c in stats.counts.values()], "rows")


def _flags(record: RunRecord) -> list[str]:
    """Return warnings that the reader must know before trusting the numbers."""
    out = []
    if record.flags.no_signal:
        out.append(
            "no_signal: two halves of the same condition hardly agree here; these numbers rank nothing."
        )
    if record.flags.shared_control:
        out.append(
            "shared_control: too few control cells to keep those that models see apart from those the truth subtracts; "
            "correlations are inflated."
        )
    if record.alignment != "by_name":
        out.append("The prediction has no row or gene names: it was aligned by position, unverified.")
    if record.var_filled:
        out.append("The prediction came without variance: the uncertainty panel does not apply.")
    own = record.notes.get("own_cells")
    if own:
        out.append(
            f"The prediction has cells of its own for {own['conditions']} conditions; scored on them: {', '.join(own['panels'])}."
        )
    out += [f"Prediction: {text}." for text in record.notes.get("warnings", [])]
    tuned = record.tuned
    if tuned and tuned["data_content_sha256"] == record.data_hash and tuned["split"] != record.split_hash:
        out.append(
            f"tuned: the parameters were selected on the validation of another split of this data, {tuned['split'][:12]}; "
            "conditions that it validated on may be tested here."
        )
    out += [f"Audit: {w['name']}: {w['message']}" for w in record.audit]
    return out


def _tuned(tuned: dict[str, Any] | None) -> list[list[str]]:
    """Return the origin of tuned parameters, as rows of a table; none where they are the entry's own."""
    if not tuned:
        return []
    which = "the entry's own, kept" if tuned["trial"] is None else f"trial {tuned['trial']}"
    text = (
        f"{which} of study {tuned['study']}, {tuned['trials']} trials on split {tuned['split'][:12]}, "
        f"validation {number(tuned['value'])}"
    )
    return [["parameters from", text]]


def _provenance(record: RunRecord) -> list[list[str]]:
    """Return the inputs, code and environment of the run, as rows of a table."""
    environment = record.environment
    code = ", ".join(f"{stage} {digest[:12]}" for stage, digest in record.code.items())
    rows: list[list[Any]] = [
        ["model", f"{record.model} ({record.family})"],
        ["parameters", ", ".join(f"{k}={v}" for k, v in record.params.items()) or "none"],
        *_tuned(record.tuned),
        ["seed", record.seed],
        ["data set", f"{record.dataset.name} {record.data_hash}"],
        ["split", record.split_hash],
        ["config", record.config_hash],
        ["code", f"{environment.get('perturbfm', '')} {environment.get('git_commit') or ''} {code}"],
        ["plug-ins", ", ".join(f"{k} {v[:12]}" for k, v in record.plugins.items()) or "none"],
        ["threads", environment.get("threads", DASH)],
        ["libraries", ", ".join(f"{k} {v}" for k, v in environment.get("libraries", {}).items())],
        ["seconds", ", ".join(f"{k} {number(v, 2)}" for k, v in record.timings.items())],
    ]
    return [[str(a), str(b)] for a, b in rows]
