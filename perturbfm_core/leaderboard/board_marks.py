"""Floors and ceilings of a board as they stand beside its scores, and why one is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perturbfm_core.evaluation.metric import Metric
from perturbfm_core.leaderboard import reasons
from perturbfm_core.leaderboard.headline import Marks, bound_name, marks_of
from perturbfm_core.splits.folder import SplitStats

# {field of `Marks`: how it is called beside a score}, from the lowest to the highest.
SHOWN_MARKS: Mapping[str, str] = {
    "control_mean": "control",
    "train_mean": "train mean",
    "half": "half of the cells",
    "noise_free": "noise-free",
}


def board_marks(
    pooled: Marks, stats: Sequence[SplitStats | None], metric: Metric
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return ({name: value, None where it is unknown}, {name: why it is unknown}).

    Parameters
    ----------
    pooled
        The marks of the board (see `PooledMarks`).
    stats
        What is stored beside each of its splits.
    metric
        The metric.
    """
    per_split = [None if s is None else marks_of(s.ceiling, s.floor, metric) for s in stats]
    marks: dict[str, float | None] = {}
    why: dict[str, str] = {}
    for field, name in SHOWN_MARKS.items():
        marks[name] = getattr(pooled, field)
        if marks[name] is None:
            values = [None if m is None else getattr(m, field) for m in per_split]
            why[name] = _why(field, stats, values, metric)
    return marks, why


def _why(
    field: str, stats: Sequence[SplitStats | None], values: Sequence[float | None], metric: Metric
) -> str:
    is_ceiling = field in ("half", "noise_free")
    bounds: list[Any] = [None if s is None else s.ceiling if is_ceiling else s.floor for s in stats]
    own = bound_name(metric.panel, metric.name)
    for bound, value in zip(bounds, values, strict=True):
        if value is None and isinstance(bound, Mapping):
            parts = (bound.get(own), bound.get(field), bound)
            found = next(
                (t for p in parts if isinstance(p, Mapping) and isinstance(t := p.get("reason"), str)), None
            )
            if found is not None:
                return " ".join(found.split())
    if all(b is None for b in bounds):
        return reasons.NO_BOUNDS
    if not is_ceiling and any(isinstance(b, Mapping) and own in (b.get(field) or {}) for b in bounds):
        return reasons.of_itself(SHOWN_MARKS[field])
    if field == "noise_free" and all(
        isinstance(b, Mapping) and isinstance(b.get(own), Mapping) and "half" in b[own] for b in bounds
    ):
        return reasons.NO_NOISE_FREE
    return reasons.NO_CEILING if is_ceiling else reasons.NO_FLOOR
