"""Marks of metrics on the scale of their panel: what its baseline and its replicates score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from perturbfm_core.evaluation.metric import Metric, panel_metrics

_ENDS = ("baseline", "anchor")
# A score is named after what it is a score of.
_SCORE = "score_"


def scale_marks(
    panel: str, headline: str, scale: Mapping[str, Any], contexts: Iterable[str]
) -> dict[str, tuple[float, float]]:
    """Return {PANEL.METRIC: (value of the baseline, value of the replicates)} of the metrics where both are known.

    Scores are 0 and 1 by definition, where any context has them. Of another metric a split has the mean over its
    conditions, as its entries do; one that is no mean of conditions has marks in splits of one context only.

    Parameters
    ----------
    panel, headline
        The panel, and its headline, which is the mean of its scores.
    scale
        {context: {metric: {"baseline": value, "anchor": value}}, or {"reason": why there is none}}.
    contexts
        Context of each test condition.
    """
    sizes = Counter(map(str, contexts))
    out: dict[str, tuple[float, float]] = {}
    scored = []
    metrics = {m.name: m for m in panel_metrics(panel)}
    for name, metric in metrics.items():
        if name.startswith(_SCORE):
            of = metrics.get(name.removeprefix(_SCORE))
            scored.append(of is not None and any(_is_scale(of, ends) for ends in _ends(scale, of.name)))
            if scored[-1]:
                out[f"{panel}.{name}"] = (0.0, 1.0)
        elif name != headline:
            found = {context: _ends_of(scale.get(context), name) for context in sizes}
            known = {context: ends for context, ends in found.items() if ends is not None}
            if len(known) == len(sizes) and (len(sizes) == 1 or metric.aggregate == "mean"):
                total = sum(sizes.values())
                first, second = (sum(sizes[c] * ends[i] for c, ends in known.items()) / total for i in (0, 1))
                out[f"{panel}.{name}"] = (first, second)
    if scored and all(scored):
        out[f"{panel}.{headline}"] = (0.0, 1.0)
    return out


def _ends(scale: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    return [ends for of in scale.values() if (ends := _ends_of(of, name)) is not None]


def _ends_of(of: Any, name: str) -> tuple[float, float] | None:
    """Return both ends of a metric in one context, None where one is unknown."""
    ends = of.get(name) if isinstance(of, Mapping) else None
    if not isinstance(ends, Mapping):
        return None
    low, high = (ends.get(end) for end in _ENDS)
    return None if low is None or high is None else (float(low), float(high))


def _is_scale(metric: Metric, ends: tuple[float, float]) -> bool:
    """Return whether the baseline is worse than the replicates, without which there is no score."""
    return metric.badness(ends[1]) < metric.badness(ends[0])
