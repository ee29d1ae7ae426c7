"""The published leaderboard: its file behind a link, its tables, its ranks."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import split_table
from tests.support.small_leaderboard import A, B, add_run, rebuild, tables


def test_the_published_file_is_read_only_behind_a_link(store: ArtifactStore) -> None:
    target = rebuild(store)
    assert target == store.runs / "leaderboard-1.duckdb"
    assert target.stat().st_mode & 0o777 == 0o444
    assert store.leaderboard.is_symlink()
    assert store.leaderboard.readlink() == Path("leaderboard-1.duckdb")
    assert sorted(p.name for p in store.runs.glob("*leaderboard*")) == [
        "leaderboard-1.duckdb",
        "leaderboard.duckdb",
    ]


def test_the_link_is_switched_and_the_last_three_are_kept(store: ArtifactStore) -> None:
    for n in range(1, 5):
        assert rebuild(store).name == f"leaderboard-{n}.duckdb"
        assert store.leaderboard.readlink() == Path(f"leaderboard-{n}.duckdb")
    kept = sorted(p.name for p in store.runs.glob("leaderboard-*"))
    assert kept == [f"leaderboard-{n}.duckdb" for n in (2, 3, 4)]


def test_file_numbers_are_compared_as_numbers(store: ArtifactStore) -> None:
    (store.runs / "leaderboard-9.duckdb").write_bytes(b"")
    (store.runs / "leaderboard-x.duckdb").write_bytes(b"")
    assert [rebuild(store).name for _ in range(2)] == ["leaderboard-10.duckdb", "leaderboard-11.duckdb"]
    rebuild(store)
    assert not (store.runs / "leaderboard-9.duckdb").exists()
    assert (store.runs / "leaderboard-x.duckdb").exists()


def test_tables_hold_runs_scores_splits_and_standings(store: ArtifactStore) -> None:
    rebuild(store)
    counts = {t: int(database.query(store, f"SELECT count(*) AS n FROM {t}")["n"][0]) for t in ("runs", "scores", "splits", "datasets", "standings", "leaderboard")}  # fmt: skip
    assert counts == {"runs": 1, "scores": 6, "splits": 1, "datasets": 1, "standings": 1, "leaderboard": 1}
    row = database.query(store, "SELECT * FROM leaderboard").iloc[0]
    assert (row["entry"], row["rank"], row["value"], row["n_conditions"]) == ("additive", 1, 0.5, 5)
    assert (row["best_baseline"], row["diff_best_baseline"]) == ("additive", 0.0)


def test_an_empty_store_has_an_empty_leaderboard(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    rebuild(store)
    assert database.query(store, "SELECT * FROM leaderboard").empty
    types = database.query(
        store, "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'scores'"
    )
    assert dict(zip(types["column_name"], types["data_type"], strict=True))["value"] == "DOUBLE"


def test_older_clients_can_read_the_storage(store: ArtifactStore) -> None:
    target = rebuild(store)
    con = duckdb.connect(str(target), read_only=True)
    try:
        tags = con.execute(
            "SELECT tags FROM duckdb_databases() WHERE database_name = 'leaderboard-1'"
        ).fetchall()
    finally:
        con.close()
    assert tags[0][0]["storage_version"].startswith("v1.2.0")


# ---- ranks ------------------------------------------------------------------------------------------------


def _ranks(store: ArtifactStore) -> dict[str, float | None]:
    rebuild(store)
    found = database.query(store, "SELECT entry, rank FROM leaderboard")
    return {e: None if pd.isna(r) else int(r) for e, r in zip(found["entry"], found["rank"], strict=True)}


@pytest.mark.parametrize(
    ("panel", "metric", "direction", "expected"),
    [
        pytest.param("delta", "pearson", "max", {"low": 3, "middle": 2, "high": 1}, id="most"),
        pytest.param("delta", "rmse", "min", {"low": 1, "middle": 2, "high": 3}, id="least"),
        pytest.param("uncertainty", "coverage_0.8", "target", {"low": 3, "middle": 2, "high": 1}, id="nearest from above"),
        pytest.param("uncertainty", "coverage_0.5", "target", {"low": 2, "middle": 1, "high": 3}, id="nearest from both sides"),
    ],
)  # fmt: skip
def test_ranks_follow_the_direction_of_the_metric(
    tmp_path: Path, panel: str, metric: str, direction: str, expected: dict[str, int]
) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    for entry, value in (("low", 0.2), ("middle", 0.6), ("high", 0.9)):
        add_run(store, entry, [value] * 5, panel=panel, metric=metric, direction=direction)
    assert _ranks(store) == expected


def test_equal_entries_share_a_rank(store: ArtifactStore) -> None:
    add_run(store, "ridge", [0.5] * 5)
    add_run(store, "linear", [0.4] * 5)
    assert _ranks(store) == {"additive": 1, "ridge": 1, "linear": 3}


def test_entries_with_undefined_conditions_rank_behind_and_those_without_any_not_at_all(
    store: ArtifactStore,
) -> None:
    add_run(store, "partial", [0.9, 0.9, np.nan, 0.9, 0.9])
    add_run(store, "worst", [-0.9] * 5)
    add_run(store, "nothing", [np.nan] * 5)
    assert _ranks(store) == {"additive": 1, "worst": 2, "partial": 3, "nothing": None}


def test_nothing_is_ranked_without_signal(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    for entry in ("additive", "ridge"):
        add_run(store, entry, [0.5] * 5, no_signal=True)
    assert _ranks(store) == {"additive": None, "ridge": None}


def test_ranks_are_by_board(store: ArtifactStore) -> None:
    add_run(store, "ridge", [0.1] * 5, split=B)
    splits = pd.concat([split_table(A), split_table(B)])
    database.rebuild(store, lambda: splits, lambda runs: tables()[1])
    found = database.query(store, "SELECT board, entry, rank FROM leaderboard ORDER BY board")
    assert found.to_numpy().tolist() == [["board-aaaa", "additive", 1], ["board-bbbb", "ridge", 1]]
