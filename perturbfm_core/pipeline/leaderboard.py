"""Stage `leaderboard`: the database over all complete runs, its page, and the tables of results."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.significance import against_baseline
from perturbfm_core.leaderboard.tables import dataset_table, split_table
from perturbfm_core.pipeline.leaderboard_page import write_page
from perturbfm_core.pipeline.opening import needs_of
from perturbfm_core.pipeline.split import stored_condition_bounds, stored_stats
from perturbfm_core.reports.results import EntrySummary, results_markdown
from perturbfm_core.store.artifacts import ArtifactStore


def rank(store: ArtifactStore, *, page: bool = True, from_nothing: bool = False) -> Path:
    """Bring the leaderboard up to date and publish it; return the database file.

    Parameters
    ----------
    store
        The store.
    page
        Whether its page is written as well.
    from_nothing
        Whether all runs are read again, not only those that are new or changed.
    """
    target = database.rebuild(
        store,
        lambda: split_table(store, partial(stored_stats, store), partial(stored_condition_bounds, store)),
        lambda runs: dataset_table(store, runs),
        from_nothing=from_nothing,
    )
    if page:
        write_page(store)
    return target


def results(store: ArtifactStore) -> str:
    """Return the results table and the comparison of models of the published leaderboard, as Markdown."""
    with database.connect(store) as con:
        board = con.execute(
            "SELECT * FROM leaderboard LEFT JOIN (SELECT board, entry, min(warned_of) AS warned_of FROM runs WHERE counted "
            "GROUP BY ALL) USING (board, entry)"
        ).df()
    summaries = {}
    for name, entry in load_catalog().models.items():
        needs = needs_of(entry)
        summaries[name] = EntrySummary(
            text=entry.description, inputs=entry.inputs, graphs=needs.graphs, features=needs.features
        )
    return results_markdown(board, against_baseline(store), summaries)
