"""Stage `leaderboard_page`: the page of the published leaderboard, and whether it is as new as the database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import duckdb

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard import database
from perturbfm_core.reports.pages.leaderboard_page import leaderboard_page
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_atomic


def write_page(store: ArtifactStore, out: Path | None = None) -> Path:
    """Write the page of the published leaderboard, and return its file.

    Parameters
    ----------
    store
        The store.
    out
        The file, by default ``runs/leaderboard.html``. Its links to reports lead to the store's runs.
    """
    target = store.leaderboard_page if out is None else out
    write_atomic(
        target,
        page_text(store, folder_address(store.runs, target.parent), scorecard_links(store, target.parent)),
    )
    return target


def page_text(store: ArtifactStore, runs: str, links: Sequence[tuple[str, str]]) -> str:
    """Return the page of the published leaderboard.

    Parameters
    ----------
    store
        The store.
    runs
        Address of the folder of the runs as seen from the page, empty or with a slash at its end.
    links
        (name, address) of further pages.

    Raises
    ------
    StoreError
        If there is no leaderboard, or another version of this program made it.
    """
    with database.connect(store) as con:
        try:
            return leaderboard_page(con, load_catalog(), runs=runs, links=links)
        except duckdb.Error as error:
            reason = " ".join(str(error).split())[:160]
            msg = f"{store.leaderboard.resolve()} cannot be shown ({reason}); run `perturbfm leaderboard refresh`"
            raise StoreError(msg) from error


def is_current(store: ArtifactStore) -> bool:
    """Return whether the page is there and no older than the published database."""
    try:
        page, published = store.leaderboard_page.stat(), store.leaderboard.stat()
    except OSError:
        return False
    return page.st_mtime_ns >= published.st_mtime_ns


def folder_address(folder: Path, seen_from: Path) -> str:
    """Return the relative address of a folder as seen from another, empty or with a slash at its end."""
    path = os.path.relpath(folder.resolve(), seen_from.resolve())
    return "" if path == "." else quote(Path(path).as_posix()) + "/"


def scorecard_links(store: ArtifactStore, seen_from: Path) -> list[tuple[str, str]]:
    """Return (name, relative address) of the scorecards of the store."""
    base = folder_address(store.scorecards, seen_from)
    pages = sorted(store.scorecards.glob("*/scorecard.html"))
    return [(f"Scorecard {p.parent.name}", f"{base}{quote(p.parent.name)}/scorecard.html") for p in pages]
