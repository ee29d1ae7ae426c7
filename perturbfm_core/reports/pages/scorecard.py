"""HTML page of a suite's scorecard."""

from __future__ import annotations

from collections.abc import Sequence

from perturbfm_core.leaderboard.scorecard import RULES, EntryScore, Scorecard
from perturbfm_core.leaderboard.scorecard_tasks import Task
from perturbfm_core.reports.html import DASH, interval, number, render


def scorecard_page(card: Scorecard) -> str:
    """Return the page: one line per entry, then each task, then the further panels and the reasons of all gaps."""
    return render(
        "scorecard.html",
        card=card,
        rules=RULES,
        entries=[_entry(e, card.tasks) for e in card.entries],
        tasks=[_task(task, card) for task in card.tasks],
        panels=_panels(card),
        gaps=[
            [e.entry, board, score.reason]
            for e in card.entries
            for board, score in e.tasks.items()
            if score.reason is not None
        ],
    )


def _entry(e: EntryScore, tasks: Sequence[Task]) -> list[str]:
    ranks = [_rank(e.tasks[task.board].rank) for task in tasks]
    memory = DASH if e.cost.peak_bytes is None else f"{e.cost.peak_bytes / 1e6:.0f}"
    count = DASH if e.cost.parameters is None else f"{e.cost.parameters:,}"
    head = [e.entry, e.family, _rank(e.mean_rank), number(e.score, 2), f"{100 * e.coverage:.0f} %"]
    return [*head, *ranks, number(e.cost.cpu_s, 1), memory, count]


def _rank(value: float | None) -> str:
    """Return a rank without needless digits."""
    return DASH if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _task(task: Task, card: Scorecard) -> dict[str, object]:
    rows = []
    places = sorted(card.entries, key=lambda e: (e.tasks[task.board].rank or 0.0, e.entry))
    for e in places:
        score = e.tasks[task.board]
        rows.append(
            [
                _rank(score.rank),
                e.entry,
                number(score.value),
                interval(score.ci_low, score.ci_high),
                number(score.relative, 2),
                f"{score.n_defined} of {task.n_possible}",
            ]
        )
    return {
        "task": task,
        "folds": f"{task.n_splits} of {task.n_splits_expected} folds"
        if task.n_splits_expected > 1
        else "one split",
        "floor": f"{number(task.floor)} ({task.floor_name})" if task.floor_name else "unknown",
        "ceiling": f"{number(task.ceiling)} ({task.ceiling_name})" if task.ceiling_name else "unknown",
        "rows": rows,
    }


def _panels(card: Scorecard) -> list[dict[str, object]]:
    """Return one table per further panel: mean rank, and the value on each task."""
    names = list(card.entries[0].panels) if card.entries else []
    boards = [task.board for task in card.tasks]
    return [
        {
            "metric": name,
            "boards": boards,
            "rows": [
                [
                    e.entry,
                    _rank(e.panels[name]["mean_rank"]),
                    *(number(e.panels[name].get(b)) for b in boards),
                ]
                for e in card.entries
            ],
        }
        for name in names
    ]
