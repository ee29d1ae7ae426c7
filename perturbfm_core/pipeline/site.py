"""A folder of static pages: the leaderboard with the reports and scorecards that it links."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard import database
from perturbfm_core.pipeline.leaderboard_page import page_text, scorecard_links
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import publish_directory

INDEX = "index.html"
# Beside the report, what a reader may want of a run.
RUN_FILES = (schema.REPORT_FILE, schema.CONFIG_FILE, schema.METRICS_FILE)
SCORECARD_FILES = ("scorecard.html", "scorecard.json")


@dataclass(frozen=True)
class Site:
    """A built site: its folder, and how many reports and scorecards it holds; `missing` names runs without a report."""

    folder: Path
    reports: int
    scorecards: int
    missing: tuple[str, ...]


def build_site(store: ArtifactStore, out: Path, *, overwrite: bool = False) -> Site:
    """Write the site: ``index.html``, ``runs/RUN/report.html`` of every run that counts, ``runs/scorecards/``.

    Parameters
    ----------
    store
        The store, with a published leaderboard.
    out
        The folder, which becomes whole in one step.
    overwrite
        Whether a site that is there is replaced.

    Raises
    ------
    StoreError
        If there is no leaderboard, or the folder exists and is not to be replaced or is no site.
    """
    if out.exists() and overwrite and not (out / INDEX).is_file() and any(out.iterdir()):
        msg = f"{out} holds files and no {INDEX}, so it is no site of an earlier build; choose another folder"
        raise StoreError(msg)
    # By name: the home may have moved since the leaderboard was made.
    runs = database.query(store, "SELECT path FROM runs WHERE counted ORDER BY run_id")["path"]
    folders = [store.runs / Path(str(path)).name for path in runs]
    cards = sorted(p.parent for p in store.scorecards.glob("*/scorecard.html"))
    missing = tuple(f.name for f in folders if not (f / schema.REPORT_FILE).is_file())

    def fill(staged: Path) -> None:
        links = [(name, f"runs/{address}") for name, address in scorecard_links(store, store.runs)]
        (staged / INDEX).write_text(page_text(store, "runs/", links), encoding="utf-8")
        for folder in folders:
            _copy(folder, staged / "runs" / folder.name, RUN_FILES)
        for folder in cards:
            _copy(folder, staged / "runs" / "scorecards" / folder.name, SCORECARD_FILES)

    publish_directory(out, fill, overwrite=overwrite)
    return Site(out, len(folders) - len(missing), len(cards), missing)


def _copy(source: Path, destination: Path, names: Iterable[str]) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
