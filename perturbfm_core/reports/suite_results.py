"""Markdown table of a suite: the headline of every entry on every board, what a fit costs, and what cannot be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perturbfm_core.reports.html import DASH, number
from perturbfm_core.reports.results import markdown_table

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
    """

    entry: str
    board: str
    ran: bool = False
    value: float | None = None
    cpu_s: float | None = None
    reason: str | None = None


def suite_markdown(metric: str, results: Sequence[BoardResult]) -> str:
    """Return the table of a suite.

    Parameters
    ----------
    metric
        Name of the headline metric, as PANEL.METRIC.
    results
        One for each entry and board, in the order of rows and columns.
    """
    boards = list(dict.fromkeys(r.board for r in results))
    place = {(r.entry, r.board): r for r in results}
    best = {
        b: max((r.value for r in results if r.board == b and r.value is not None), default=None)
        for b in boards
    }
    rows = []
    for entry in dict.fromkeys(r.entry for r in results):
        mine = [place[entry, b] for b in boards]
        rows.append([f"`{entry}`", *(_cell(r, best[r.board]) for r in mine), _hours(mine), _reasons(mine)])
    text = (
        f"`{metric}` over the test conditions of each board, the best in bold; {DASH} where it is undefined, {NOT_APPLICABLE} "
        f"where the entry cannot run, as the last column says, {NOT_RUN} where nobody has. CPU hours are those of one fit, "
        "the least and the most of these boards."
    )
    header = ["entry", *boards, "CPU hours", "cannot run: it needs"]
    return "\n".join([text, "", *markdown_table(header, rows)])


def _cell(result: BoardResult, best: float | None) -> str:
    if not result.ran:
        return NOT_RUN if result.reason is None else NOT_APPLICABLE
    text = number(result.value)
    return f"**{text}**" if result.value is not None and result.value == best else text


def _hours(results: Sequence[BoardResult]) -> str:
    known = sorted(r.cpu_s / _SECONDS for r in results if r.ran and r.cpu_s is not None)
    if not known:
        return DASH
    ends = list(dict.fromkeys(f"{h:.2g}" if h >= 0.001 else "<0.001" for h in (known[0], known[-1])))
    return " to ".join(ends)


def _reasons(results: Sequence[BoardResult]) -> str:
    """Return each reason once, without its numbers of conditions and its examples."""
    found: dict[str, None] = {}
    for r in results:
        if r.reason is not None and not r.ran:
            parts = r.reason.removeprefix("needs ").split("; ")
            found |= dict.fromkeys(p.partition(" (")[0] for p in parts if not p.startswith("each of"))
    return "; ".join(found) or DASH
