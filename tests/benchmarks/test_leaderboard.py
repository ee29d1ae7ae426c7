"""Leaderboard of 3,000 runs of full size: from nothing, after one more run, and after a year of unchanged cells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
from tests.benchmarks.conftest import Usage
from tests.support.paths import REPO
from tests.support.simulated_runs import Grid, Simulator

# 24 entries with 5 seeds on three cross-validations of five folds and ten single splits.
GRID = Grid(entries=24, seeds=5, boards=[5] * 3 + [1] * 10)
LIMIT_FROM_NOTHING_S, LIMIT_FROM_NOTHING_MB = 60.0, 2000.0
LIMIT_ONE_RUN_S, LIMIT_ONE_RUN_MB = 3.0, 1000.0

REFRESH = """
import sys
from pathlib import Path
import pandas as pd
from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
home = Path(sys.argv[1])
splits = pd.read_json(home / "splits.json", dtype={"split_hash": str})
splits = splits.astype(object).where(splits.notna(), None)
database.rebuild(ArtifactStore(home / "home", home / "splits"), lambda: splits, lambda runs: pd.DataFrame({"dataset": ["screen"]}))
"""


def refresh(home: Path) -> Usage:
    """Bring the leaderboard up to date in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", REFRESH, str(home)], cwd=REPO)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Usage(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def said(what: str, usage: Usage) -> None:
    """Print what a refresh took."""
    print(f"{what}: {usage.wall_s:.1f} s, {usage.cpu_s:.1f} CPU-s, {usage.peak_mb:.0f} MB")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with 3,000 runs whose leaderboard was made from nothing."""
    folder = tmp_path_factory.mktemp("leaderboard")
    simulator = Simulator(ArtifactStore(folder / "home", folder / "splits"))
    start = time.process_time()
    for i, (entry, seed, split) in enumerate(GRID.cells):
        simulator.write(entry, seed, split, created=i)
    print(f"{len(GRID.cells)} runs of {simulator.n_rows} scores in {time.process_time() - start:.0f} CPU-s")
    GRID.splits.to_json(folder / "splits.json")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def from_nothing(home: Path) -> Usage:
    """Return what the first refresh took."""
    return refresh(home)


def test_from_nothing(home: Path, from_nothing: Usage) -> None:
    said("from nothing", from_nothing)
    store = ArtifactStore(home / "home", home / "splits")
    assert database.query(store, "SELECT count(*) AS n FROM runs")["n"][0] == len(GRID.cells)
    assert from_nothing.cpu_s <= LIMIT_FROM_NOTHING_S
    assert from_nothing.peak_mb <= LIMIT_FROM_NOTHING_MB


def test_after_one_more_run(home: Path, from_nothing: Usage) -> None:
    simulator = Simulator(ArtifactStore(home / "home", home / "splits"))
    entry, _, split = GRID.cells[len(GRID.cells) // 2]
    for seed in (100, 101):
        simulator.write(entry, seed, split, created=10**6 + seed)
        usage = refresh(home)
        said("one more run", usage)
        assert usage.cpu_s <= LIMIT_ONE_RUN_S
        assert usage.peak_mb <= LIMIT_ONE_RUN_MB


def test_a_reader_pays_for_what_it_asks(home: Path, from_nothing: Usage) -> None:
    store = ArtifactStore(home / "home", home / "splits")
    board = GRID.splits["board"][0]
    for what, sql in {
        "one metric on all boards": "SELECT * FROM leaderboard WHERE panel = 'delta' AND metric = 'pearson_centered'",
        "conditions of a board": f"SELECT entry, key, avg(value) FROM scores WHERE board = '{board}' AND scope = 'condition' AND panel = 'delta' AND metric = 'pearson_centered' GROUP BY ALL",
        "strata of a board": f"SELECT * FROM strata WHERE board = '{board}' AND panel = 'delta' AND metric = 'pearson_centered'",
    }.items():
        start = time.process_time()
        rows = len(database.query(store, sql))
        print(f"{what}: {rows} rows in {time.process_time() - start:.2f} CPU-s")
        assert rows
        assert time.process_time() - start < 5


def test_a_refresh_with_nothing_new(home: Path, from_nothing: Usage) -> None:
    usage = refresh(home)
    said("nothing new", usage)
    assert usage.cpu_s <= LIMIT_ONE_RUN_S
    assert (home / "home" / "runs" / "leaderboard.duckdb").stat().st_size < 1e9
