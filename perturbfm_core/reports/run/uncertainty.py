"""The content of ``calibration.json`` for a report: curves, coverage by group, intervals of single conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.reports.html import DASH, number
from perturbfm_core.reports.run.values import compact, one

LEVEL = "0.9"
FAN_GENES = 40
MOST_GROUPS = 30


def how_calibrated(calibration: Mapping[str, Any] | None) -> list[list[str]]:
    """Return how the intervals were made, as rows of a table."""
    if not calibration:
        return []
    guarantee = calibration.get("guarantee", DASH)
    if isinstance(guarantee, dict):
        guarantee = "; ".join(guarantee.values())
    worst, effective = calibration.get("worst_group"), calibration.get("effective_units")
    groups = [
        f"{g['group']}: {g['n_units']} units" + ("" if g["own_quantiles"] else ", too few")
        for g in calibration.get("groups", [])
    ]
    made = (
        f"{calibration['n_units']} units ({calibration['unit']}), {calibration['residuals']}"
        if "n_units" in calibration
        else None
    )
    rows = [
        ["method", calibration.get("method", "none")],
        ["variance", calibration.get("variance", DASH)],
        ["not calibrated", calibration.get("reason", DASH)] if made is None else ["calibrated on", made],
        ["guarantee", guarantee],
        ["groups", ", ".join(groups) or DASH],
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


def calibration_data(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return reliability, PIT histogram, risk and coverage, and coverage by group; None without a variance."""
    if not calibration or "reliability" not in calibration:
        return None
    reliability, pit, risk = (calibration[k] for k in ("reliability", "pit_histogram", "risk_coverage"))
    after = [
        (float(k), v["value"]) for k, v in calibration["clustered"]["after"].items() if v["value"] is not None
    ]
    return {
        "nominal": compact(reliability["nominal"]),
        "observed": compact(reliability["observed"]),
        "calibrated": [compact([x for x, _ in after]), compact([y for _, y in after])],
        "pit": compact(pit["share"]),
        "kept": compact(risk["kept"]),
        "risk": {name: compact(values) for name, values in risk["risk"].items()},
        "level": float(LEVEL),
        "groups": group_rows(calibration),
    }


def group_rows(calibration: Mapping[str, Any]) -> list[list[Any]]:
    """Return (label, Gaussian or calibrated, coverage, low, high) of all conditions, each group and each bin of genes."""
    if "clustered" not in calibration:
        return []
    parts: list[tuple[str, Mapping[str, Any]]] = [("all", calibration["clustered"])]
    for axis, groups in calibration["by_group"].items():
        label = axis.removeprefix("stratum:").replace("_", " ")
        parts += [(f"{label}: {name} (n = {v['n_conditions']})", v) for name, v in groups.items()]
    bins = calibration["by_gene_scale"] or []
    parts += [(f"gene scale {i + 1} of {len(bins)} (n = {v['n_genes']})", v) for i, v in enumerate(bins)]
    return [
        [label, name, one(v[side][LEVEL]["value"]), one(v[side][LEVEL]["low"]), one(v[side][LEVEL]["high"])]
        for label, v in parts[:MOST_GROUPS]
        for side, name in (("before", "Gaussian"), ("after", "calibrated"))
    ]


def fans(comparison: Comparison, picks: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Return intervals and observed changes of chosen conditions; empty without intervals.

    Parameters
    ----------
    comparison
        Observed and predicted changes with their intervals.
    picks
        (title, position) of each condition, of which the 40 largest predicted changes are shown.
    """
    intervals = comparison.intervals
    if intervals is None:
        return []
    out = []
    for title, i in picks:
        genes = np.argsort(-np.abs(comparison.predicted[i]), kind="stable")[:FAN_GENES]
        genes = genes[np.argsort(comparison.predicted[i, genes], kind="stable")]
        mean = comparison.predicted[i, genes]
        own, var = intervals.rows(np.asarray([i])), comparison.predicted_var[[i]]
        bands = []
        for at in range(len(intervals.levels) - 1, -1, -1):
            half = own.half_width(at, var)[0, genes]
            if np.isfinite(half).all():
                bands.append({"low": compact(mean - half), "high": compact(mean + half)})
        out.append(
            {
                "title": title,
                "genes": [str(comparison.genes[g]) for g in genes],
                "predicted": compact(mean),
                "observed": compact(comparison.observed[i, genes]),
                "bands": bands,
            }
        )
    return out
