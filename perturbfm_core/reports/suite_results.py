"""Markdown table of a suite: the headline of every entry on every board, what a fit costs, and what cannot be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from perturbfm_core.leaderboard import reasons
from perturbfm_core.reports.footnotes import Footnotes
from perturbfm_core.reports.html import DASH, number
from perturbfm_core.reports.results import MARK_ROWS, markdown_table

NOT_APPLICABLE, NOT_RUN = "n/a", "not run"
_SECONDS = 3600.0


@dataclass(frozen=True)
class BoardResult:
    """Result of one entry on one board of a suite.

    Attributes
    ----------
    entry
        The entry.
    board
        Title of the board.
    ran
        Whether there is a run.
    value
        Its headline value, None where it is undefined or there is no run.
    cpu_s
        CPU seconds of a fit, None where they are not known.
    reason
        Why the entry cannot run there, None if it can.
    undefined
        Why there is no value although it has run, None if there is one.
    folds
        How many folds it has run, where others have run more.
    best
        Whether it stands first of these entries on the board.
    """

    entry: str
    board: str
    ran: bool = False
    value: float | None = None
    cpu_s: float | None = None
    reason: str | None = None
    undefined: str | None = None
    folds: str | None = None
    best: bool = False


@dataclass(frozen=True)
class BoardMarks:
    """What the values of a board are read against.

    Attributes
    ----------
    folds
        How many of its folds have run, where not all have.
    marks
        {column of view ``leaderboard``: floor or ceiling}, None where unknown.
    reasons
        {column: why it is unknown}.
    """

    folds: str | None = None
    marks: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str | None] = field(default_factory=dict)


def suite_markdown(
    metric: str,
    results: Sequence[BoardResult],
    marks: Mapping[str, BoardMarks] | None = None,
) -> str:
    """Return the table of a suite.

    Parameters
    ----------
    metric
        Name of the headline metric, as PANEL.METRIC.
    results
        One for each entry and board, in the order of rows and columns.
    marks
        {title of a board: its folds, floors and ceilings}.
    """
    boards = list(dict.fromkeys(r.board for r in results))
    place = {(r.entry, r.board): r for r in results}
    notes = Footnotes()
    rows = []
    for entry in dict.fromkeys(r.entry for r in results):
        mine = [place[entry, b] for b in boards]
        cells = [_cell(r, notes) for r in mine]
        rows.append([f"`{entry}`", *cells, _hours(mine, notes), _reasons(mine)])
    about = {b: (marks or {}).get(b, BoardMarks()) for b in boards}
    if marks:
        rows += [_mark_row(column, label, about, notes) for column, label in MARK_ROWS.items()]
    below = ", below them the floors and what noise allows" if marks else ""
    text = (
        f"`{metric}` over the test conditions of each board, the best in bold{below}; {NOT_APPLICABLE} "
        f"where the entry cannot run, as the last column says, {NOT_RUN} where nobody has. CPU hours are those of one fit, "
        "the least and the most of these boards."
    )
    heads = [b if about[b].folds is None else f"{b} ({about[b].folds})" for b in boards]
    header = ["entry", *heads, "CPU hours", "cannot run: it needs"]
    return "\n".join([text, "", *markdown_table(header, rows), *notes.markdown_line()])


def _mark_row(column: str, label: str, about: Mapping[str, BoardMarks], notes: Footnotes) -> list[str]:
    """Return the row of one floor or ceiling."""
    why = reasons.NO_CEILING if column.startswith("ceiling") else reasons.NO_FLOOR
    cells = [
        notes.markdown(number(of.marks.get(column)), of.reasons.get(column) or why) for of in about.values()
    ]
    return [f"*{label}*", *cells, "", ""]


def _cell(result: BoardResult, notes: Footnotes) -> str:
    if not result.ran:
        return NOT_RUN if result.reason is None else NOT_APPLICABLE
    text = notes.markdown(number(result.value), result.undefined or reasons.UNDEFINED)
    if result.folds is not None:
        return f"{text} ({result.folds})"
    return f"**{text}**" if result.best else text


def _hours(results: Sequence[BoardResult], notes: Footnotes) -> str:
    known = sorted(r.cpu_s / _SECONDS for r in results if r.ran and r.cpu_s is not None)
    if not known:
        return notes.markdown(DASH, "not recorded by its runs" if any(r.ran for r in results) else "no run")
    ends = list(dict.fromkeys(f"{h:.2g}" if h >= 0.001 else "<0.001" for h in (known[0], known[-1])))
    return " to ".join(ends)


def _reasons(results: Sequence[BoardResult]) -> str:
    """Return each reason once, without its numbers of conditions and its examples."""
    found: dict[str, None] = {}
    for r in results:
        if r.reason is not None and not r.ran:
            parts = r.reason.removeprefix("needs ").split("; ")
            found |= dict.fromkeys(p.partition(" (")[0] for p in parts if not p.startswith("each of"))
    return "; ".join(found) or "nothing"
