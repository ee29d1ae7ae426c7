"""The leaderboard page at 3,000 cells of 150 metrics: time to make it, its size, and when a browser shows it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.leaderboard import database
from perturbfm_core.reports.pages.leaderboard_page import LIMIT, leaderboard_page
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.browser import chromium
from tests.support.simulated_runs import Grid, Simulator

ENTRIES, METRICS = 30, 150


def several_boards(source: Path, target: Path, boards: int) -> Path:
    """Copy a database of one board of one split, with as many boards of other values as asked for."""
    shutil.copyfile(source, target)
    con = duckdb.connect(str(target))
    noise = "(0.2 * (random() - 0.5))"
    con.execute(f"CREATE TABLE more AS SELECT unnest(range(1, {boards})) AS b")
    moved = {
        "standings": f"board || '-' || b AS board, value + {noise} AS value, ci_low + {noise} AS ci_low, "
        f"ci_high + {noise} AS ci_high, diff + {noise} AS diff, diff_low + {noise} AS diff_low, "
        f"diff_high + {noise} AS diff_high, badness + {noise} AS badness",
        "runs": "board || '-' || b AS board, run_id || b AS run_id, split_hash || b AS split_hash, path || b AS path",
        "splits": "board || '-' || b AS board, split_hash || b AS split_hash",
        "global_scores": f"run_id || b AS run_id, split_hash || b AS split_hash, value + {noise} AS value",
        "headline_conditions": f"run_id || b AS run_id, value + {noise} AS value",
    }
    for table, columns in moved.items():
        con.execute(
            f"INSERT INTO {table} SELECT * EXCLUDE (b) REPLACE ({columns}) FROM (SELECT * FROM {table}), more"
        )
    con.close()
    return target


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return {cells: database} of 300 and 3,000 cells."""
    root = tmp_path_factory.mktemp("boards")
    store = ArtifactStore(root / "home", root / "splits")
    grid = Grid(ENTRIES, 1, [1])
    simulator = Simulator(store, METRICS)
    for cell in grid.cells:
        simulator.write(*cell)
    database.rebuild(store, lambda: grid.splits, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
    source = store.leaderboard.resolve()
    return {n: several_boards(source, root / f"{n}.duckdb", n // ENTRIES) for n in (300, 3000)}


def page_of(file: Path) -> tuple[str, float]:
    """Return the page of a database, and the CPU seconds that it took."""
    with duckdb.connect(str(file), read_only=True) as con:
        started = time.process_time()
        text = leaderboard_page(con, load_catalog())
        return text, time.process_time() - started


def test_it_is_made_in_two_cpu_seconds_and_in_proportion(made: dict[int, Path], capsys: Any) -> None:
    page_of(made[300])
    took = {n: min(page_of(file)[1] for _ in range(3)) for n, file in made.items()}
    sizes = {n: len(page_of(file)[0].encode()) for n, file in made.items()}
    with capsys.disabled():
        print(f"\nCPU seconds by cells: {took}; bytes: {sizes}")
    assert took[3000] <= 2
    # Ten times the cells take no more than ten times as long.
    assert took[3000] <= 10 * max(took[300], 0.1)
    assert sizes[3000] <= LIMIT


def test_a_browser_shows_it_within_a_second(made: dict[int, Path], tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "page.html"
    file.write_text(page_of(made[3000])[0], encoding="utf-8")
    with chromium() as browser:
        paints, drawn = [], []
        for _ in range(3):
            page = browser.new_page()
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-ready]")
            drawn.append(page.evaluate("performance.now()"))
            paints.append(
                page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            assert page.locator("#standings tbody tr").count() == ENTRIES
            page.close()
    with capsys.disabled():
        print(f"\nfirst paint {min(paints):.0f} ms, drawn within {min(drawn):.0f} ms")
    assert min(paints) <= 1000
