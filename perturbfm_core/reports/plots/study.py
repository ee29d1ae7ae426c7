"""Plots of a tuning study as inline SVG images.

The same study gives the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from perturbfm_core.reports.plots.condition import ACCENT, INK

_FAINT = "#9aa5b1"
_POINTS: dict[str, Any] = {"s": 11, "color": ACCENT, "alpha": 0.7, "linewidths": 0}

Panel = tuple[str, Sequence[Any], bool]


def history(numbers: Sequence[int], values: Sequence[float], own: float, ylabel: str) -> str:
    """Return an SVG data URI: the value of each trial, the best so far, and that of the entry itself.

    Parameters
    ----------
    numbers, values
        Number and value of each complete trial, in order.
    own
        Value of the entry with its own parameters.
    ylabel
        Label of the vertical axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(own, color=_FAINT, linewidth=1, linestyle="--", label="the entry itself")
    axes.scatter(numbers, values, label="a trial", **_POINTS)
    best = np.maximum.accumulate(np.asarray(values))
    axes.step(numbers, best, where="post", color=INK, linewidth=1.2, label="best so far")
    axes.set_xlabel("trial", fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    return _uri(figure)


def importances(shares: dict[str, float]) -> str:
    """Return an SVG data URI: a bar per parameter, the largest share first."""
    from matplotlib.figure import Figure

    ordered = sorted(shares.items(), key=lambda item: -item[1])
    figure = Figure(figsize=(6.0, 0.5 + 0.28 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(ordered)), [v for _, v in ordered], color=ACCENT)
    axes.set_yticks(range(len(ordered)), [k for k, _ in ordered], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("share", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    return _uri(figure)


def slices(panels: Sequence[Panel], values: Sequence[float], ylabel: str) -> str:
    """Return an SVG data URI: one scatter plot per parameter, of the value of each trial against its setting.

    Parameters
    ----------
    panels
        Per parameter (name, setting in each trial, whether the axis is logarithmic).
    values
        Value of each trial.
    ylabel
        Label of the vertical axis.
    """
    from matplotlib.figure import Figure

    wide = min(len(panels), 3)
    rows = -(-len(panels) // wide)
    figure = Figure(figsize=(2.9 * wide, 2.5 * rows), layout="constrained")
    for i, (name, settings, log) in enumerate(panels):
        axes = figure.add_subplot(rows, wide, i + 1)
        if any(isinstance(x, str | bool | None) for x in settings):
            names = sorted({str(x) for x in settings})
            axes.scatter([names.index(str(x)) for x in settings], values, **_POINTS)
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
        else:
            axes.scatter(settings, values, **_POINTS)
            axes.set_xscale("log" if log else "linear")
        axes.set_xlabel(name, fontsize=8)
        if i % wide == 0:
            axes.set_ylabel(ylabel, fontsize=8)
        axes.tick_params(labelsize=7)
    return _uri(figure)


def _uri(figure: Any) -> str:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # Without a salt, identifiers in the SVG are random.
    with rc_context({"svg.hashsalt": "perturbfm"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
