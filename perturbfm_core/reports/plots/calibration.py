"""Plots of ``calibration.json`` as inline images: reliability, PIT, risk and coverage, coverage by group, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.reports.plots.condition import ACCENT, INK, image, row_of_panels
from perturbfm_core.schema import FloatArray

LEVEL = "0.9"
FAN_GENES = 40
_GREY = "#b0b8c1"
_SIDES = (("before", _GREY, "Gaussian"), ("after", ACCENT, "calibrated"))
_MOST_GROUPS = 30


def curves(calibration: dict[str, Any]) -> str | None:
    """Return a PNG data URI: reliability curve, PIT histogram and risk-coverage curve; None without a variance."""
    if "reliability" not in calibration:
        return None
    figure = row_of_panels(3, 10.8, 3.4)
    axes = figure.axes
    reliability, pit, risk = (calibration[k] for k in ("reliability", "pit_histogram", "risk_coverage"))

    axes[0].plot([0, 1], [0, 1], color=_GREY, linewidth=1)
    axes[0].plot(reliability["nominal"], reliability["observed"], color=ACCENT, label="Gaussian")
    after = [
        (float(k), v["value"]) for k, v in calibration["clustered"]["after"].items() if v["value"] is not None
    ]
    if after:
        x, y = zip(*after, strict=True)
        axes[0].scatter(x, y, color=INK, s=18, zorder=3, label="calibrated")
    _label(axes[0], "Reliability", "nominal coverage", "observed coverage")
    axes[0].legend(fontsize=7)

    bins = pit["bins"]
    axes[1].bar((np.arange(bins) + 0.5) / bins, pit["share"], width=1 / bins, color=ACCENT)
    axes[1].axhline(1 / bins, color=INK, linewidth=1)
    _label(
        axes[1], "PIT histogram (Gaussian)", "predicted probability of at most the observed", "share of genes"
    )

    for name, colour in (("random", _GREY), ("model", ACCENT), ("oracle", INK)):
        axes[2].plot(risk["kept"], risk["risk"][name], color=colour, label=name)
    _label(
        axes[2],
        "Risk and coverage",
        "share of conditions kept, most certain first",
        "mean RMSE of those kept",
    )
    axes[2].set_ylim(bottom=0)
    axes[2].legend(fontsize=7)
    return image(figure)


def coverage_by_group(calibration: dict[str, Any]) -> str | None:
    """Return a PNG data URI: 90 % coverage by group with clustered intervals, None where there are no groups."""
    from matplotlib.figure import Figure

    rows = _group_rows(calibration)[:_MOST_GROUPS]
    if not rows:
        return None
    figure = Figure(figsize=(7.2, 0.8 + 0.26 * len(rows)), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    for shift, (side, colour, label) in zip((-0.15, 0.15), _SIDES, strict=True):
        shown = [(i, r[side]) for i, (_, r) in enumerate(rows) if r[side][LEVEL]["value"] is not None]
        if not shown:
            continue
        x = np.asarray([found[LEVEL]["value"] for _, found in shown])
        low = np.asarray(
            [x[j] if f[LEVEL]["low"] is None else f[LEVEL]["low"] for j, (_, f) in enumerate(shown)]
        )
        high = np.asarray(
            [x[j] if f[LEVEL]["high"] is None else f[LEVEL]["high"] for j, (_, f) in enumerate(shown)]
        )
        y = np.asarray([i + shift for i, _ in shown])
        axes.errorbar(
            x, y, xerr=[x - low, high - x], fmt="o", color=colour, markersize=4, linewidth=1, label=label
        )
    axes.axvline(float(LEVEL), color=INK, linewidth=1)
    axes.set_yticks(range(len(rows)), [name.replace("$", r"\$") for name, _ in rows], fontsize=7)
    axes.invert_yaxis()
    _label(axes, "", f"coverage at nominal {LEVEL}, mean over perturbations with its 95 % interval", "")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    return image(figure)


def _group_rows(calibration: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return (label, {side: {level: ...}}) of all conditions, each group and each bin of genes."""
    if "clustered" not in calibration:
        return []
    rows = [("all", calibration["clustered"])]
    for axis, parts in calibration["by_group"].items():
        rows += [
            (f"{axis.removeprefix('stratum:')} {name} (n = {v['n_conditions']})", v)
            for name, v in parts.items()
        ]
    bins = calibration["by_gene_scale"] or []
    rows += [(f"gene scale {i + 1} of {len(bins)} (n = {v['n_genes']})", v) for i, v in enumerate(bins)]
    return rows


def fans(comparison: Comparison, picks: Sequence[tuple[str, int]]) -> str | None:
    """Return a PNG data URI: intervals and observed deltas of chosen conditions, None without intervals.

    Parameters
    ----------
    comparison
        Observed and predicted deltas with their intervals.
    picks
        (title, position) of each condition to show, with its 40 largest predicted changes.
    """
    intervals = comparison.intervals
    if intervals is None or not picks:
        return None
    figure = row_of_panels(len(picks), 3.6 * len(picks), 3.4)
    for p, (title, i) in enumerate(picks):
        axes = figure.axes[p]
        genes = np.argsort(-np.abs(comparison.predicted[i]), kind="stable")[:FAN_GENES]
        genes = genes[np.argsort(comparison.predicted[i, genes], kind="stable")]
        mean, x = comparison.predicted[i, genes], np.arange(len(genes))
        for at in range(len(intervals.levels) - 1, -1, -1):
            half: FloatArray = intervals.half_width(at, comparison.predicted_var)[i, genes]
            if np.isfinite(half).all():
                axes.fill_between(x, mean - half, mean + half, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(x, mean, color=ACCENT, linewidth=1.2)
        axes.scatter(x, comparison.observed[i, genes], s=7, color=INK, zorder=3)
        _label(axes, title.replace("$", r"\$"), "largest predicted changes, in order", "delta (log1p)")
    return image(figure)


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
