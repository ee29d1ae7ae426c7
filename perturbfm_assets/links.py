"""Addresses of pages over HTTP: a browser opens no file from a page of the web UI."""

import os
from pathlib import Path
from urllib.parse import quote

from perturbfm_core.store.artifacts import ArtifactStore

# Where `perturbfm serve` listens, unless this variable says otherwise.
VARIABLE = "PERTURBFM_SERVE_URL"
DEFAULT = "http://127.0.0.1:8765"


def page_url(store: ArtifactStore, page: Path) -> str:
    """Return the address of a page of the store as `perturbfm serve` gives it.

    Parameters
    ----------
    store
        The store that is served.
    page
        A file of a run, a scorecard, or the leaderboard page.
    """
    base = (os.environ.get(VARIABLE, "").strip() or DEFAULT).rstrip("/")
    # To a browser an address without a scheme is a page of the web UI.
    base = base if "://" in base else f"http://{base}"
    return f"{base}/runs/{quote(_below(page, store.runs).as_posix())}"


def _below(page: Path, runs: Path) -> Path:
    """Return the path of a page below the folder of runs, which, like a run in it, may be a link to another disk."""
    given = Path(os.path.abspath(page))
    for folder in (Path(os.path.abspath(runs)), runs.resolve()):
        if given.is_relative_to(folder):
            return given.relative_to(folder)
    return page.resolve().relative_to(runs.resolve())
