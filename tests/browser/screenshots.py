"""Pictures of the pages for the documentation: ``python -m tests.browser.screenshots --home HOME --out docs/images``.

HOME holds the runs of suite `demo` (`perturbfm demo`). The pictures of the Dagster UI are those that its browser test
keeps where ``PERTURBFM_SCREENSHOTS`` names a folder; ``make screenshots`` makes all.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.pipeline.leaderboard_page import write_page
from perturbfm_core.pipeline.report import report_again
from perturbfm_core.pipeline.suite_scorecard import suite_scorecard, write_scorecard
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import read_run_record
from tests.support.browser import chromium

LIMIT_BYTES = 300_000
# {picture in the documentation: that of the UI's test}.
UI = {
    "dagster": "floor_and_ceiling",
    "dagster_graph": "graph",
    "dagster_launch": "launch",
    "dagster_score": "score",
}


@dataclass(frozen=True)
class Shot:
    """A picture: its name, the page, the window, the colours, and what is done on the page first."""

    name: str
    file: Path
    width: int
    height: int
    colours: str = "light"
    board: str = ""
    prepare: Callable[[Any], None] | None = None


def keep(content: bytes, path: Path) -> None:
    """Write a picture in all its colours: with fewer, thin marks or the edges of cards are lost."""
    from PIL import Image

    Image.open(io.BytesIO(content)).convert("RGB").save(path, optimize=True)
    size = path.stat().st_size
    if size > LIMIT_BYTES:
        msg = f"{path} has {size} bytes, more than {LIMIT_BYTES}"
        raise SystemExit(msg)
    print(f"{path}: {size} bytes")


def one_condition(page: Any) -> None:
    """Open the panel of one condition of a report."""
    page.locator("details#condition summary").click()
    page.locator("#volcano-predicted svg").wait_for()


def taken(store: ArtifactStore, folder: Path, entry: str, kind: str) -> list[Shot]:
    """Write the pages and return the pictures to take of them.

    Parameters
    ----------
    store
        Store of the runs.
    folder
        Where pages are written that do not belong into the store.
    entry, kind
        Of the run whose report is shown.
    """
    board_page = write_page(store)
    card = write_scorecard(store, suite_scorecard(store, load_catalog().suite("demo")), folder)[
        "scorecard_page"
    ]
    runs = [(p, read_run_record(p)) for p in store.run_dirs()]
    run = next(p for p, r in runs if (r.entry, r.split.kind) == (entry, kind))
    board = next(r.split.key for _, r in runs if r.split.kind == "context_ood")
    report = folder / "report.html"
    report.write_text(report_again(store, str(run)), encoding="utf-8")
    return [
        Shot("leaderboard", board_page, 1320, 1180, board=board),
        Shot("leaderboard_dark", board_page, 1320, 900, "dark", board),
        Shot("leaderboard_narrow", board_page, 420, 1100, board=board),
        Shot("report", report, 1180, 1420, prepare=one_condition),
        Shot("report_dark", report, 1180, 860, "dark"),
        Shot("report_narrow", report, 420, 1100),
        Shot("scorecard", card, 1180, 1000),
        Shot("scorecard_dark", card, 1180, 700, "dark"),
    ]


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ui", type=Path, help="Folder with the pictures of the UI's test.")
    parser.add_argument("--entry", default="ridge")
    parser.add_argument("--kind", default="perturbation_ood")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    store = ArtifactStore(given.home)
    for name, picture in UI.items():
        if given.ui is not None:
            keep((given.ui / f"ui_{picture}.png").read_bytes(), given.out / f"{name}.png")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for shot in taken(store, Path(folder), given.entry, given.kind):
            context = browser.new_context(
                viewport={"width": shot.width, "height": shot.height}, color_scheme=shot.colours
            )
            page = context.new_page()
            page.goto(shot.file.resolve().as_uri() + (f"#board={shot.board}" if shot.board else ""))
            if shot.board:
                page.wait_for_selector("html[data-ready]")
            if shot.prepare is not None:
                shot.prepare(page)
            page.wait_for_timeout(500)
            keep(page.screenshot(), given.out / f"{shot.name}.png")
            context.close()


if __name__ == "__main__":
    main()
