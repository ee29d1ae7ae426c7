"""Stage `leaderboard`: the database over all complete runs, its page, and the tables of results."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.significance import against_baseline
from perturbfm_core.leaderboard.tables import dataset_table, split_table
from perturbfm_core.pipeline.opening import needs_of
from perturbfm_core.pipeline.split import stored_stats
from perturbfm_core.reports.pages.leaderboard import leaderboard_page
from perturbfm_core.reports.results import EntrySummary, results_markdown
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_atomic


def rank(store: ArtifactStore) -> Path:
    """Rebuild and publish the leaderboard and its page; return the database file."""
    target = database.rebuild(
        store,
        lambda: split_table(store, lambda split: stored_stats(store, split)),
        lambda runs: dataset_table(store, runs),
    )
    with database.connect(store) as con:
        board = con.execute("SELECT * FROM leaderboard").df()
        n_runs = int(con.execute("SELECT count(*) FROM runs").df().iloc[0, 0])
    write_atomic(store.leaderboard_page, leaderboard_page(board, n_runs))
    return target


def results(store: ArtifactStore) -> str:
    """Return the results table and the comparison of models of the published leaderboard, as Markdown."""
    with database.connect(store) as con:
        board = con.execute("SELECT * FROM leaderboard").df()
    summaries = {}
    for name, entry in load_catalog().models.items():
        needs = needs_of(entry)
        summaries[name] = EntrySummary(
            text=entry.description, inputs=entry.inputs, graphs=needs.graphs, features=needs.features
        )
    return results_markdown(board, against_baseline(store), summaries)
