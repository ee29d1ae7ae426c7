"""Directions, targets, parts and versions of metrics, kept so that a refresh need not import all panels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perturbfm_core.config import content_hash
from perturbfm_core.evaluation.metric import METRICS, Metric
from perturbfm_core.registry.members import plugin_digests
from perturbfm_core.store.atomic import file_digest


class Declared(NamedTuple):
    """Direction, best value of a ``target`` metric, parts of a ratio, version (see `perturbfm_core.evaluation.metric.Metric`)."""

    direction: str
    target: float | None
    ratio_of: tuple[tuple[str, str], ...]
    version: str


# (panel, metric) -> what it says, None for one that is not registered.
Declarations = Callable[[str, str], Declared | None]


def registered(panel: str, metric: str) -> Declared | None:
    """Return what a registered metric says of itself, None if there is none of that name."""
    name = f"{panel}.{metric}"
    if name not in METRICS:
        return None
    return _declared(METRICS.get(name))


def all_registered() -> dict[str, Declared]:
    """Return {PANEL.METRIC: what it says of itself} of all registered metrics."""
    return {name: _declared(m) for name, m in METRICS.items()}


def _declared(metric: Metric) -> Declared:
    return Declared(metric.direction, metric.target, metric.ratio_of, metric.version)


class KnownMetrics:
    """Metrics as they were registered earlier, under the same code.

    Parameters
    ----------
    known
        {PANEL.METRIC: what it says of itself}.
    """

    def __init__(self, known: Mapping[str, Declared]) -> None:
        self._known = known

    def __call__(self, panel: str, metric: str) -> Declared | None:
        """Return what a metric says of itself, None if there is none of that name."""
        return self._known.get(f"{panel}.{metric}")


def code_digest() -> str:
    """Return a digest of the files that the tables of the leaderboard and the metrics are made by, and of plug-ins.

    It is one of bytes: that a comment makes all tables anew costs less than taking files apart at every refresh.
    """
    core = Path(__file__).parents[1]
    files = [
        *sorted((core / "leaderboard").glob("*.py")),
        *sorted((core / "evaluation").rglob("*.py")),
        core / "data" / "condition.py",
    ]
    points = [
        [p.name, p.value, p.dist.version if p.dist else ""]
        for p in metadata.entry_points(group="perturbfm.metrics")
    ]
    return content_hash(
        {
            "files": [file_digest(f) for f in files],
            "plugins": plugin_digests(),
            "packages": sorted(points),
            "numpy": np.__version__,
        }
    )
