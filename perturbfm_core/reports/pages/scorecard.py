"""HTML page of a suite's scorecard."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from perturbfm_core.leaderboard import reasons
from perturbfm_core.leaderboard.scorecard import RULES, EntryScore, Scorecard
from perturbfm_core.leaderboard.scorecard_tasks import Task, TaskScore
from perturbfm_core.reports.footnotes import Footnotes
from perturbfm_core.reports.html import DASH, interval, number, render

_NO_TASK = "no task that counts has a value of any entry"
_NO_VALUE = "no entry has a value on this task"
_NO_SCALE = "no task that counts has both a floor and a ceiling"


def scorecard_page(card: Scorecard) -> str:
    """Return the page: one line per entry, then each task, then the further panels and the reasons of all gaps."""
    notes = Footnotes()
    entries = [_entry(e, card.tasks, notes) for e in card.entries]
    return render(
        "scorecard.html",
        card=card,
        rules=RULES,
        heads=[f"rank {i}{_part(task)}" for i, task in enumerate(card.tasks, 1)],
        entries=entries,
        notes=notes.lines(),
        tasks=[_task(task, card) for task in card.tasks],
        panels=_panels(card),
        gaps=[
            [e.entry, board, score.reason]
            for e in card.entries
            for board, score in e.tasks.items()
            if score.reason is not None
        ],
    )


def _part(task: Task) -> str:
    """Return what the head of a column says of a task of which the suite has only some folds."""
    if task.n_splits == task.n_splits_expected:
        return ""
    return f" ({reasons.of_folds(task.n_splits, task.n_splits_expected)})"


def _entry(e: EntryScore, tasks: Sequence[Task], notes: Footnotes) -> list[str]:
    ranks = [notes.html(_rank(e.tasks[t.board].rank), t.note or _NO_VALUE) for t in tasks]
    memory = DASH if e.cost.peak_bytes is None else f"{e.cost.peak_bytes / 1e6:.0f}"
    count = DASH if e.cost.parameters is None else f"{e.cost.parameters:,}"
    head = [
        e.entry,
        e.family,
        notes.html(_rank(e.mean_rank), _NO_TASK),
        notes.html(number(e.score, 2), _NO_SCALE),
        f"{100 * e.coverage:.0f} %",
    ]
    cost = [number(e.cost.cpu_s, 2), memory, count]
    return [*head, *ranks, *(notes.html(text, _no_cost(e)) for text in cost)]


def _no_cost(e: EntryScore) -> str:
    if e.family == "external":
        return "handed in: what its fit cost elsewhere is not known"
    if all(score.n_defined == 0 and score.coverage == 0 for score in e.tasks.values()):
        return "no run of this entry by the present code and inputs"
    return reasons.NOT_RECORDED


def _rank(value: float | None) -> str:
    """Return a rank without needless digits."""
    return DASH if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _task(task: Task, card: Scorecard) -> dict[str, object]:
    notes = Footnotes()
    marks = [(name, notes.html(number(v), task.mark_reasons.get(name))) for name, v in task.marks.items()]
    rows = []
    places = sorted(card.entries, key=lambda e: (e.tasks[task.board].rank or 0.0, e.entry))
    for e in places:
        score = e.tasks[task.board]
        rows.append(
            [
                notes.html(_rank(score.rank), task.note or _NO_VALUE),
                e.entry,
                notes.html(number(score.value), score.reason),
                notes.html(interval(score.ci_low, score.ci_high), _no_interval(score)),
                notes.html(number(score.relative, 2), _no_place(task)),
                f"{score.n_defined} of {task.n_possible}",
            ]
        )
    return {
        "task": task,
        "folds": _folds(task),
        "marks": marks,
        "scale": None
        if task.floor_name is None or task.ceiling_name is None
        else f"0 is {task.floor_name}, 1 is {task.ceiling_name}",
        "rows": rows,
        "notes": notes.lines(),
    }


def _folds(task: Task) -> str:
    if task.n_splits_expected == 1:
        return "one split"
    said = reasons.of_folds(task.n_splits, task.n_splits_expected)
    left = task.n_splits_no_signal
    return f"{said}, of which {left} without signal left out" if left else said


def _no_interval(score: TaskScore) -> str | None:
    return score.reason if score.value is None else f"{reasons.FEW_UNITS}, or {reasons.FEW_DRAWS}"


def _no_place(task: Task) -> str:
    if task.floor is None or task.ceiling is None:
        return task.note or "no scale: the floor or the ceiling is unknown"
    return "the ceiling is no better than the floor"


def _panels(card: Scorecard) -> list[dict[str, object]]:
    """Return one table per further panel: mean rank, and the value on each task."""
    names = list(card.entries[0].panels) if card.entries else []
    return [_panel(name, card) for name in names]


def _panel(name: str, card: Scorecard) -> dict[str, object]:
    notes = Footnotes()
    boards = [task.board for task in card.tasks]

    def value(e: EntryScore, board: str) -> Markup:
        why = e.panel_reasons.get(name, {}).get(board) or reasons.UNDEFINED
        return notes.html(number(e.panels[name].get(board)), why)

    rows = [
        [
            e.entry,
            notes.html(_rank(e.panels[name]["mean_rank"]), _NO_TASK),
            *(value(e, board) for board in boards),
        ]
        for e in card.entries
    ]
    return {"metric": name, "boards": boards, "rows": rows, "notes": notes.lines()}
