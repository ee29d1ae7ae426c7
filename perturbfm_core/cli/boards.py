"""Boards of the leaderboard as text: entries with intervals, floor and ceiling, and the reason of every dash."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from perturbfm_core.cli.output import cut, number

if TYPE_CHECKING:
    import pandas as pd

    from perturbfm_core.evaluation.metric import Metric
    from perturbfm_core.store.artifacts import ArtifactStore

WIDTH = 120
_DIRECTIONS = {"max": "higher is better", "min": "lower is better"}
_FLOORS = (("control_mean_floor", "control"), ("train_mean_floor", "train mean"))
_CEILINGS = (("ceiling", "half of the cells"), ("ceiling_noise_free", "noise-free"))


class Footnotes:
    """Reasons of dashes, each with a number that stands beside the dash."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def dash(self, reason: str) -> str:
        """Return a dash with the number of its reason."""
        return f"- [{self._numbers.setdefault(reason, len(self._numbers) + 1)}]"

    def lines(self) -> list[str]:
        """Return one line per reason."""
        return [f"[{i}] {reason}" for reason, i in self._numbers.items()]


def undefined_reasons(store: ArtifactStore, metric: Metric) -> dict[tuple[str, str], str]:
    """Return {(board, entry): why a metric is undefined} of the runs that count.

    Each of them counts its own conditions, which are not those of the board.
    """
    from perturbfm_core.evaluation.metric_values import without_counts
    from perturbfm_core.leaderboard import database

    rows = database.query(
        store,
        "SELECT p.board, r.entry, any_value(s.reason) AS reason FROM scores s JOIN runs r USING (run_id) "
        "JOIN splits p ON p.split_hash = r.split_hash WHERE r.counted AND s.scope = 'global' AND s.reason IS NOT NULL "
        f"AND s.panel = '{metric.panel}' AND s.metric = '{metric.name}' GROUP BY ALL",
    )
    return {(str(r.board), str(r.entry)): without_counts(str(r.reason)) for r in rows.itertuples(index=False)}


def borrowing_entries(store: ArtifactStore) -> set[str]:
    """Return the entries whose fits read effects of other data sets."""
    from perturbfm_core.leaderboard import database

    rows = database.query(store, "SELECT DISTINCT entry FROM runs WHERE uses_other_screens")
    return {str(e) for e in rows["entry"]}


def warned_entries(store: ArtifactStore) -> dict[tuple[str, str], str]:
    """Return {(board, entry): what its predictions are warned of} of the runs that count."""
    from perturbfm_core.leaderboard import database

    rows = database.query(
        store,
        "SELECT board, entry, min(warned_of) AS warned_of FROM runs WHERE counted AND warned_of IS NOT NULL GROUP BY ALL",
    )
    return {(str(r.board), str(r.entry)): str(r.warned_of) for r in rows.itertuples(index=False)}


def board_lines(
    frame: pd.DataFrame,
    metric: Metric,
    undefined: Mapping[tuple[str, str], str] | None = None,
    borrowing: Collection[str] = (),
    warned: Mapping[tuple[str, str], str] | None = None,
) -> Iterator[str]:
    """Yield the lines of a table per board, none of more than 120 characters but for a footnote.

    Parameters
    ----------
    frame
        Rows of view ``leaderboard`` for one metric.
    metric
        The metric.
    undefined
        {(board, entry): why its value is undefined}, where that is known.
    borrowing
        Entries that use other screens, which are marked.
    warned
        {(board, entry): what its predictions are warned of}.
    """
    notes = Footnotes()
    better = _DIRECTIONS.get(metric.direction, "describes the data")
    if metric.direction == "target" and metric.target is not None:
        better = f"nearest to {metric.target:g} is best"
    said = f"{metric.panel}.{metric.name}, {better}: {metric.description}"
    yield from textwrap.wrap(said, WIDTH, subsequent_indent="  ")
    for board, rows in frame.groupby("board", sort=False):
        yield ""
        yield from _board(str(board), rows, notes, metric, dict(undefined or {}))
        if marked := [str(e) for e in rows["entry"] if e in borrowing]:
            yield from textwrap.wrap(
                f"uses other screens: {', '.join(marked)}", WIDTH, initial_indent="  ", subsequent_indent="  "
            )
        for entry in map(str, rows["entry"]):
            if (text := (warned or {}).get((str(board), entry))) is not None:
                said = f"warned of: {entry}: {text}"
                yield from textwrap.wrap(said, WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines = notes.lines()
    if lines:
        yield ""
        yield from lines


def _board(
    name: str, rows: pd.DataFrame, notes: Footnotes, metric: Metric, undefined: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    first = rows.iloc[0]
    done, total = folds_of(rows)
    yield name
    said = [f"{int(rows['n_conditions'].max())} test conditions"]
    if total > 1 or done < total:
        said.append(f"{done} of {total} folds")
    if done < total:
        said.append("incomplete, so not ranked")
    if _true(first["no_signal"]):
        said.append("no signal in the data, so not ranked")
    if _true(first["shared_control"]):
        said.append("train and test subtract the same controls")
    yield from textwrap.wrap(", ".join(said), WIDTH, initial_indent="  ", subsequent_indent="  ")
    floors = [f"{label} {_mark(first, c, label, notes, metric)}" for c, label in _FLOORS]
    ceilings = [f"{label} {_mark(first, c, label, notes, metric)}" for c, label in _CEILINGS]
    marks = f"floor: {', '.join(floors)}; ceiling: {', '.join(ceilings)}"
    if (over_folds := _text(first.get("marks_reason"))) is not None:
        marks += f" {notes.dash(over_folds).removeprefix('- ')}"
    yield from textwrap.wrap(marks, WIDTH, initial_indent="  ", subsequent_indent="  ")
    best = _text(first.get("best_baseline"))
    against = f"minus {cut(best, 20)}" if best else "minus best baseline"
    head = ("rank", "entry", "value", "interval", against, "folds")
    cells = [head, *(_cells(row, notes, done < total, undefined) for _, row in rows.iterrows())]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    # Names give way to numbers.
    widths[1] = max(min(widths[1], WIDTH - 2 * len(head) - sum(widths) + widths[1]), 12)
    cells = [(row[0], cut(row[1], widths[1]), *row[2:]) for row in cells]
    for row in cells:
        text = [
            x.ljust(w) if i in (1, 3, 4) else x.rjust(w)
            for i, (x, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(text)).rstrip()


def _cells(
    row: pd.Series, notes: Footnotes, incomplete: bool, undefined: Mapping[tuple[str, str], str]
) -> tuple[str, ...]:
    value = _number(row["value"])
    reason = _text(row.get("reason"))
    done, total = _folds(row)
    if value is None:
        why = (
            undefined.get((str(row["board"]), str(row["entry"]))) or reason or "undefined in every condition"
        )
        # One kind of reason holds for all conditions, which are then those of the board.
        if why.startswith("conditions ") and why.count("conditions ") == 1:
            why = f"{int(row['n_undefined'])} of {int(row['n_conditions'])} {why}"
        none = notes.dash(why)
        return (none, str(row["entry"]), none, none, none, f"{done}/{total}")
    rank = _number(row["rank"])
    if rank is not None and not incomplete:
        place = f"{int(rank)}"
    else:
        place = notes.dash(_why_not_ranked(row, incomplete, reason))
    low, high = _number(row["ci_low"]), _number(row["ci_high"])
    interval = (
        f"{_short(low)} to {_short(high)}"
        if low is not None and high is not None
        else notes.dash(f"no interval: {_text(row.get('interval_reason')) or 'too few units to draw from'}")
    )
    gap = _number(row["diff_best_baseline"])
    if _text(row.get("best_baseline")) == row["entry"]:
        against = "best baseline"
    elif gap is None:
        against = notes.dash(f"no difference: {_text(row.get('diff_reason')) or 'no baseline with a value'}")
    else:
        sign = "+" if gap >= 0 else ""
        ends = _number(row["diff_low"]), _number(row["diff_high"])
        against = (
            f"{sign}{_short(gap)}"
            if None in ends
            else f"{sign}{_short(gap)} ({_short(ends[0])} to {_short(ends[1])})"
        )
    shown = _short(value)
    if int(row["n_undefined"]):
        shown += " " + notes.dash(
            f"{int(row['n_undefined'])} of {int(row['n_conditions'])} conditions undefined; ranked behind entries with fewer"
        ).removeprefix("- ")
    return (place, str(row["entry"]), shown, interval, against, f"{done}/{total}")


def _why_not_ranked(row: pd.Series, incomplete: bool, reason: str | None) -> str:
    done, total = _folds(row)
    if incomplete or done < total:
        return f"not ranked: {done} of {total} folds"
    if _true(row["no_signal"]):
        return "not ranked: no signal in the data"
    if row["direction"] == "target":
        return "not ranked: the metric describes the data"
    return f"not ranked: {reason}" if reason else "not ranked: others have run on more folds"


def folds_of(rows: pd.DataFrame) -> tuple[int, int]:
    """Return (folds that any entry has run on, folds) of a board, those without signal counted as run."""
    each = [_folds(row) for _, row in rows.iterrows()]
    return max(d for d, _ in each), each[0][1]


def _folds(row: pd.Series) -> tuple[int, int]:
    return int(row["folds_done"]), int(row["folds_total"])


def _mark(row: pd.Series, column: str, label: str, notes: Footnotes, metric: Metric) -> str:
    value = _number(row.get(column))
    if value is not None:
        return _short(value)
    return notes.dash(why_no_mark(metric, label, has_half=_number(row.get("ceiling")) is not None))


def why_no_mark(metric: Metric, label: str, *, has_half: bool) -> str:
    """Return why a metric has no value of a floor or ceiling.

    Parameters
    ----------
    metric
        The metric.
    label
        What the value is called.
    has_half
        Whether the score of one half of the cells is known.
    """
    from perturbfm_core.leaderboard.headline import HEADLINE_PANEL, headline_of

    if metric.panel != HEADLINE_PANEL and metric != headline_of(metric.panel):
        return f"known for panel {HEADLINE_PANEL} and the headline of each panel only"
    if has_half and label == "noise-free":
        return "what a noise-free prediction reaches does not follow from halves for this metric"
    if has_half:
        known = "the train mean itself" if label == "train mean" else "no change"
        return f"{metric.name} of {known} is undefined"
    return "not computed by this code yet (the next run on the split does), or the data have no cells with controls"


def _short(value: float | None) -> str:
    """Return a number of at most 10 characters."""
    return "-" if value is None else number(value) if abs(value) < 1000 else f"{value:.4g}"


def _number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if found == found else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _true(value: Any) -> bool:
    return value is not None and str(value) in ("True", "true", "1")
