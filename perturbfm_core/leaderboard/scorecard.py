"""Scorecard of a suite: every entry by task, mean rank, score between floor and ceiling, coverage, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from perturbfm_core.leaderboard.run_cost import RunCost
from perturbfm_core.leaderboard.scorecard_tasks import Task, TaskScore

SCHEMA_VERSION = 1

# How missing results count, as the file and the page say it.
RULES = (
    "rank: on each task, entries with fewer conditions without a value come first, then those of the better value; equal "
    "ones share the mean of their places, and entries without any value share the last places.",
    "relative: 0 is the floor and 1 the ceiling of the task; conditions without a value count as the floor, and so does a "
    "task that an entry is not applicable to, failed on or was not run on, or that another version of the metric scored.",
    "coverage: share of the test conditions of all tasks that were predicted; one that was left out and is scored as its "
    "control is not among them, and a task without a run has none.",
)


@dataclass(frozen=True)
class EntryScore:
    """An entry of a scorecard.

    Attributes
    ----------
    entry, family
        Its name and family.
    mean_rank
        Mean of its ranks over the tasks that count, None without any.
    score
        Mean place between floor and ceiling over the tasks that count and have both, None without any.
    coverage
        Share of the conditions of all tasks that it predicted itself.
    tasks
        {board: its score}.
    panels
        {PANEL.METRIC: {"mean_rank": mean rank, board: value}} of the further panels.
    panel_reasons
        {PANEL.METRIC: {board: why it has no value there, or not everywhere}}.
    cost
        Mean CPU seconds of a run, largest memory and number of parameters.
    """

    entry: str
    family: str
    mean_rank: float | None
    score: float | None
    coverage: float
    tasks: Mapping[str, TaskScore]
    panels: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    panel_reasons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cost: RunCost = field(default_factory=RunCost)


@dataclass(frozen=True)
class Scorecard:
    """What a suite says of its entries.

    Attributes
    ----------
    suite, description, created
        The suite, and UTC time.
    metric, metric_description
        The primary metric, as PANEL.METRIC.
    tasks, entries
        Tasks in the order of the suite, entries from the best mean rank.
    """

    suite: str
    description: str
    created: str
    metric: str
    metric_description: str
    tasks: Sequence[Task]
    entries: Sequence[EntryScore]

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``scorecard.json``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "suite": self.suite,
            "description": self.description,
            "created": self.created,
            "metric": self.metric,
            "metric_description": self.metric_description,
            "rules": list(RULES),
            "tasks": [asdict(task) for task in self.tasks],
            "entries": [
                {
                    **{k: getattr(e, k) for k in ("entry", "family", "mean_rank", "score", "coverage")},
                    "tasks": {board: asdict(score) for board, score in e.tasks.items()},
                    "panels": {name: dict(of) for name, of in e.panels.items()},
                    "panel_reasons": {name: dict(of) for name, of in e.panel_reasons.items()},
                    "cost": e.cost.to_json(),
                }
                for e in self.entries
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per entry, for a table."""
        return [
            {
                "entry": e.entry,
                "family": e.family,
                "mean_rank": e.mean_rank,
                "score": e.score,
                "coverage": e.coverage,
                "cpu_s": e.cost.cpu_s,
                "peak_mb": None if e.cost.peak_bytes is None else round(e.cost.peak_bytes / 1e6),
                "parameters": e.cost.parameters,
            }
            for e in self.entries
        ]


def entry_score(
    entry: str,
    family: str,
    tasks: Sequence[Task],
    scores: Mapping[str, TaskScore],
    *,
    panels: Mapping[str, Mapping[str, float | None]] | None = None,
    panel_reasons: Mapping[str, Mapping[str, str]] | None = None,
    cost: RunCost | None = None,
) -> EntryScore:
    """Return an entry's means over tasks.

    Parameters
    ----------
    entry, family
        Its name and family.
    tasks
        All tasks.
    scores
        {board: its score}, one per task.
    panels, panel_reasons
        Its values by further panels, and why some are missing.
    cost
        Of its runs.
    """
    counted = [task.board for task in tasks if task.counted]
    ranks = [r for board in counted if (r := scores[board].rank) is not None]
    places = [p for board in counted if (p := scores[board].relative) is not None]
    total = sum(task.n_conditions for task in tasks)
    predicted = sum(scores[task.board].coverage * task.n_conditions for task in tasks)
    return EntryScore(
        entry=entry,
        family=family,
        mean_rank=float(np.mean(ranks)) if ranks else None,
        score=float(np.mean(places)) if places else None,
        coverage=predicted / total if total else 0.0,
        tasks=scores,
        panels=panels or {},
        panel_reasons=panel_reasons or {},
        cost=cost or RunCost(),
    )


def ordered(entries: Sequence[EntryScore]) -> list[EntryScore]:
    """Return entries from the best mean rank, then the higher score, then by name; those without a rank last."""
    return sorted(
        entries,
        key=lambda e: (
            e.mean_rank is None,
            e.mean_rank or 0.0,
            -(e.score if e.score is not None else -np.inf),
            e.entry,
        ),
    )
