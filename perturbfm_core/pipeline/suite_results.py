"""Results of a suite's entries on its boards as a Markdown table, from the published leaderboard."""

from __future__ import annotations

import pandas as pd

from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard import database, reasons
from perturbfm_core.leaderboard.headline import HEADLINE, HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.models.base import new_model
from perturbfm_core.pipeline.suite import SuiteCell, plan_suite
from perturbfm_core.pipeline.suite_variance import variance_note
from perturbfm_core.reports.results import MARK_ROWS, best_entries, board_titles, mark_reason, text_of
from perturbfm_core.reports.suite_results import BoardMarks, BoardResult, suite_markdown
from perturbfm_core.store.artifacts import ArtifactStore

_VALUES = f"""
SELECT * FROM leaderboard WHERE panel = '{HEADLINE_PANEL}' AND metric = '{HEADLINE_METRIC}'
"""
_COSTS = "SELECT board, entry, avg(cpu_seconds) AS cpu_s FROM runs WHERE counted GROUP BY board, entry"


def suite_results(store: ArtifactStore, suite: SuiteEntry) -> str:
    """Return the table of a suite as Markdown: values, CPU hours of a fit, and where entries cannot run.

    Raises
    ------
    StoreError
        If none of its entries has run on one of its boards.
    """
    found = database.query(store, _VALUES)
    rows = {(r["board"], r["entry"]): r for _, r in found.iterrows()}
    costs = {(b, e): c for b, e, c in database.query(store, _COSTS).itertuples(index=False)}
    results: dict[tuple[str, str], BoardResult] = {}
    marks: dict[str, BoardMarks] = {}
    cells = plan_suite(store, suite).cells
    titles = board_titles({c.split.board: (c.split.dataset, c.split.kind) for c in cells})
    most = found.groupby("board")["folds_done"].max()
    own = found[found["entry"].isin({cell.entry for cell in cells})]
    best = {board: best_entries(rows_of) for board, rows_of in own.groupby("board")}
    for cell in cells:
        board = cell.split.board
        key = (board, cell.entry)
        if key in results:
            continue
        row, cost = rows.get(key), costs.get(key)
        title = titles[board]
        value = None if row is None else _float(row["value"])
        results[key] = BoardResult(
            entry=cell.entry,
            board=title,
            ran=row is not None,
            value=value,
            cpu_s=_float(cost),
            reason=_reason(cell),
            undefined=None if row is None else text_of(row, "reason"),
            folds=None
            if row is None or row["folds_done"] == most[board]
            else reasons.of_folds(int(row["folds_done"]), int(row["folds_total"])),
            best=cell.entry in best.get(board, ()),
        )
        if title not in marks:
            marks[title] = _marks(found[found["board"] == board])
    if not any(r.ran for r in results.values()):
        msg = f"no entry of suite {suite.name!r} has run on its boards; run it first: `perturbfm suite run {suite.name}`"
        raise StoreError(msg)
    note = variance_note(store, {key: r.board for key, r in results.items()})
    return "\n\n".join([suite_markdown(HEADLINE, list(results.values()), marks), *([note] if note else [])])


def _marks(rows: pd.DataFrame) -> BoardMarks:
    """Return what the values of a board are read against, from its rows of view ``leaderboard``."""
    if rows.empty:
        return BoardMarks(reasons=dict.fromkeys(MARK_ROWS, "no run on this board"))
    first = rows.iloc[0]
    done, total = int(rows["folds_done"].max()), int(first["folds_total"])
    return BoardMarks(
        folds=None if done == total else reasons.of_folds(done, total),
        marks={column: _float(first[column]) for column in MARK_ROWS},
        reasons={column: mark_reason(first, column) for column in MARK_ROWS},
    )


def _float(value: object) -> float | None:
    """Return a number, None for what is missing."""
    return float(value) if isinstance(value, int | float) and value == value else None


def _reason(cell: SuiteCell) -> str | None:
    """Return why an entry cannot run on a split; what is absent on this machine alone does not count."""
    if cell.reason is None:
        return None
    entry = load_catalog().model(cell.entry)
    return None if cell.reason == new_model(entry.model, entry.params).absent() else cell.reason
