"""Plots of conditions as inline images, so that a report is a single file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from perturbfm_core.schema import FloatArray

INK = "#1f2933"
ACCENT = "#2f6f9f"


def scatter_panels(panels: Sequence[tuple[str, FloatArray, FloatArray]]) -> str:
    """Return a PNG data URI: observed (x) against predicted (y) delta, one panel per (title, x, y)."""
    figure = row_of_panels(len(panels), 3.6 * len(panels), 3.6)
    for i, (title, x, y) in enumerate(panels):
        axes = figure.axes[i]
        reach = float(max(np.abs(x).max(initial=0.0), np.abs(y).max(initial=0.0), 1e-3)) * 1.05
        axes.plot([-reach, reach], [-reach, reach], color="#b0b8c1", linewidth=1, zorder=0)
        axes.scatter(x, y, s=6, color=ACCENT, alpha=0.5, linewidths=0)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        # Names come from data: "$" must not start a formula.
        axes.set_title(title.replace("$", r"\$"), fontsize=9, color=INK)
        axes.set_xlabel("observed delta (log1p)", fontsize=8)
        axes.set_ylabel("predicted delta (log1p)", fontsize=8)
        axes.tick_params(labelsize=7)
    return image(figure)


def row_of_panels(n: int, width: float, height: float) -> Any:
    """Return a figure with `n` axes side by side, with fixed margins: fitted ones would draw everything twice.

    Parameters
    ----------
    n
        Number of axes.
    width, height
        Of the figure, in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=90)
    figure.subplots(1, n, squeeze=False)
    margin = {
        "left": 0.55 / width,
        "right": 1 - 0.1 / width,
        "bottom": 0.45 / height,
        "top": 1 - 0.3 / height,
    }
    figure.subplots_adjust(**margin, wspace=0.6 * n / (width - 0.65 - 0.6 * (n - 1)) if n > 1 else 0)
    return figure


def bars(labels: Sequence[str], values: Sequence[float], xlabel: str) -> str:
    """Return a PNG data URI: horizontal bars.

    Parameters
    ----------
    labels, values
        Label and length of each bar, from top to bottom.
    xlabel
        Label of the horizontal axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 0.5 + 0.28 * max(len(labels), 1)), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(labels)), values, color=ACCENT)
    axes.set_yticks(range(len(labels)), [text.replace("$", r"\$") for text in labels], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(xlabel, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    return image(figure)


def headline_plot(
    metrics: dict[str, Any], panel: str = "delta", metric: str = "pearson", most: int = 30
) -> str | None:
    """Return a PNG data URI: bars of one metric by perturbation, None where it is undefined everywhere.

    Parameters
    ----------
    metrics
        Content of ``metrics.json``.
    panel, metric
        The metric to show.
    most
        Largest number of perturbations; those with the lowest values are shown.
    """
    rows = [
        (key, v[metric]) for key, v in metrics[panel]["per_perturbation"].items() if v.get(metric) is not None
    ]
    rows = sorted(rows, key=lambda item: item[1])[:most]
    return (
        bars([k for k, _ in rows], [v for _, v in rows], f"{panel}.{metric}, lowest first") if rows else None
    )


def image(figure: Any) -> str:
    """Return a figure as a PNG data URI, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
