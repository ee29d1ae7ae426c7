"""Bars of one metric by perturbation, as an SVG image for the pages of the orchestrator."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.reports.html import number

INK = "#1f2933"
ACCENT = "#2f6f9f"

_ROW, _WIDTH, _PLOT = 20, 640, 300
_LONGEST = 36


def bars(labels: Sequence[str], values: Sequence[float], title: str) -> str:
    """Return an SVG data URI: horizontal bars from zero with their values, the same bytes for the same values.

    Parameters
    ----------
    labels, values
        Label and length of each bar, from top to bottom.
    title
        What the lengths are.
    """
    low, high = min([0.0, *values]), max([0.0, *values])
    span = (high - low) or 1.0
    left, height = _WIDTH - _PLOT - 70, _ROW * len(labels) + 34
    zero = left - low / span * _PLOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="16" font-weight="bold" fill="{INK}">{escape(title)}</text>',
    ]
    for i, (label, value) in enumerate(zip(labels, values, strict=True)):
        y, end = 26 + i * _ROW, left + (value - low) / span * _PLOT
        short = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
        parts += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end" fill="{INK}">{escape(short)}</text>',
            f'<rect x="{min(zero, end):.1f}" y="{y + 2}" width="{max(abs(end - zero), 0.5):.1f}" height="{_ROW - 5}" fill="{ACCENT}"/>',
            f'<text x="{max(zero, end) + 6:.1f}" y="{y + 13}" fill="{INK}">{number(value)}</text>',
        ]
    text = "".join([*parts, "</svg>"])
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode("utf-8", "replace")).decode()


def headline_plot(
    values: Mapping[str, float], panel: str = HEADLINE_PANEL, metric: str = HEADLINE_METRIC, most: int = 30
) -> str | None:
    """Return an SVG data URI: bars of one metric by perturbation, None where it is undefined everywhere.

    Parameters
    ----------
    values
        {perturbation: value of the metric}, NaN where it is undefined.
    panel, metric
        The metric to show.
    most
        Largest number of perturbations; those with the lowest values are shown.
    """
    rows = [(key, value) for key, value in values.items() if math.isfinite(value)]
    rows = sorted(rows, key=lambda item: item[1])[:most]
    return (
        bars([k for k, _ in rows], [v for _, v in rows], f"{panel}.{metric}, lowest first") if rows else None
    )
