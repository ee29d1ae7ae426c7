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
# By which the page of a leaderboard is known.
_TITLE = "<title>PerturbFM leaderboard</title>"


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
    if out.exists() and overwrite:
        _check_site(out)
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


def _check_site(folder: Path) -> None:
    """Refuse to replace what is not an earlier site as a whole: other files in the folder would be lost.

    Raises
    ------
    StoreError
        Naming the first such file.
    """
    if not folder.is_dir():
        msg = f"{folder} is a file, not a site of an earlier build; choose another folder"
        raise StoreError(msg)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if not p.is_dir())
    if files and not (Path(INDEX) in files and _TITLE in (folder / INDEX).read_text("utf-8", "replace")):
        msg = f"{folder} holds files and no {INDEX} of a leaderboard, so it is no site of an earlier build; choose another folder"
        raise StoreError(msg)
    other = next((f for f in files if not _is_of_site(f)), None)
    if other is not None:
        msg = f"{folder} holds {other}, which is of no site and would be lost; move it away, or choose another folder"
        raise StoreError(msg)


def _is_of_site(file: Path) -> bool:
    """Return whether `build_site` writes a file of this path below its folder."""
    match file.parts:
        case ("runs", "scorecards", _, name):
            return name in SCORECARD_FILES
        case ("runs", _, name):
            return name in RUN_FILES
        case _:
            return file.parts == (INDEX,)


def _copy(source: Path, destination: Path, names: Iterable[str]) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
