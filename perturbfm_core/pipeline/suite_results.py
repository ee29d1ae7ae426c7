"""Results of a suite's entries on its boards as a Markdown table, from the published leaderboard."""

from __future__ import annotations

from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.headline import HEADLINE, HEADLINE_METRIC, HEADLINE_PANEL
from perturbfm_core.models.base import new_model
from perturbfm_core.pipeline.suite import SuiteCell, plan_suite
from perturbfm_core.reports.suite_results import BoardResult, suite_markdown
from perturbfm_core.store.artifacts import ArtifactStore

_VALUES = f"""
SELECT board, entry, value FROM leaderboard WHERE panel = '{HEADLINE_PANEL}' AND metric = '{HEADLINE_METRIC}'
"""
_COSTS = "SELECT board, entry, avg(cpu_seconds) AS cpu_s FROM runs WHERE is_current GROUP BY board, entry"


def suite_results(store: ArtifactStore, suite: SuiteEntry) -> str:
    """Return the table of a suite as Markdown: values, CPU hours of a fit, and where entries cannot run.

    Raises
    ------
    StoreError
        If none of its entries has run on one of its boards.
    """
    found = database.query(store, _VALUES)
    values = {(b, e): v for b, e, v in found.itertuples(index=False)}
    costs = {(b, e): c for b, e, c in database.query(store, _COSTS).itertuples(index=False)}
    results: dict[tuple[str, str], BoardResult] = {}
    for cell in plan_suite(store, suite).cells:
        board = cell.split.board
        key = (board, cell.entry)
        if key in results:
            continue
        value, cost = values.get(key), costs.get(key)
        results[key] = BoardResult(
            entry=cell.entry,
            board=f"{cell.split.dataset}, {cell.split.kind}",
            ran=key in values,
            value=None if value is None or value != value else float(value),
            cpu_s=None if cost is None or cost != cost else float(cost),
            reason=_reason(cell),
        )
    if not any(r.ran for r in results.values()):
        msg = f"no entry of suite {suite.name!r} has run on its boards; run it first: `perturbfm suite run {suite.name}`"
        raise StoreError(msg)
    return suite_markdown(HEADLINE, list(results.values()))


def _reason(cell: SuiteCell) -> str | None:
    """Return why an entry cannot run on a split; what is absent on this machine alone does not count."""
    if cell.reason is None:
        return None
    entry = load_catalog().model(cell.entry)
    return None if cell.reason == new_model(entry.model, entry.params).absent() else cell.reason
