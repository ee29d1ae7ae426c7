"""The scale of the vcc2026 scores: per context and metric the values that count as 0 and as 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perturbfm_core.reports.html import number

PANEL = "vcc2026"


def scale_rows(metrics: Mapping[str, Any] | None) -> tuple[list[list[str]], list[str]]:
    """Return (rows of context, metric, value that counts as 0, value that counts as 1; why a context has none).

    `metrics` is the content of ``metrics.json``, whose ``vcc2026.scale`` holds {context: {metric: {baseline, anchor}}},
    or {context: {"reason": text}}.
    """
    panel = (metrics or {}).get(PANEL)
    scale = panel.get("scale") if isinstance(panel, Mapping) else None
    rows: list[list[str]] = []
    reasons: list[str] = []
    for context, of in scale.items() if isinstance(scale, Mapping) else ():
        if not isinstance(of, Mapping):
            continue
        if "reason" in of:
            reasons.append(f"{context}: {of['reason']}.")
            continue
        rows += [
            [str(context), str(metric), number(ends.get("baseline")), number(ends.get("anchor"))]
            for metric, ends in of.items()
            if isinstance(ends, Mapping)
        ]
    return rows, reasons
