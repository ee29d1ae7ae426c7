"""Publishing the leaderboard beside readers, writers and what they leave behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.errors import DiskError, StoreError
from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.owner import new_token
from tests.support.factories import run_config, score_rows, split_table, write_run
from tests.support.paths import REPO

A, B = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Return a store with one run."""
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    add_run(store, "additive", [0.5] * 5)
    return store


def add_run(store: ArtifactStore, entry: str, values: list[float], **kwargs: Any) -> None:
    """Write one run of an entry."""
    score = {k: kwargs.pop(k) for k in ("panel", "metric", "direction") if k in kwargs}
    config = run_config(entry, **kwargs)
    write_run(store, config, score_rows(config, {f"x|G{i}|||": v for i, v in enumerate(values)}, **score))


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return tables of splits and data sets."""
    return split_table(A, split_key="screen.combo_ood.a", cv_fold=None), pd.DataFrame(
        {"dataset": ["screen"], "n_obs": [3]}
    )


def rebuild(store: ArtifactStore) -> Path:
    """Rebuild the leaderboard of a store."""
    splits, datasets = tables()
    return database.rebuild(store, lambda: splits, lambda runs: datasets)


def entries(store: ArtifactStore) -> list[str]:
    """Return the entries of the published leaderboard by rank."""
    return list(
        database.query(store, "SELECT entry FROM leaderboard ORDER BY rank NULLS LAST, entry")["entry"]
    )


@pytest.fixture
def wal_of_another(tmp_path: Path) -> bytes:
    """Return the log that a client left of some other database."""
    path = tmp_path / "other.duckdb"
    con = duckdb.connect(str(path))
    try:
        con.execute("SET checkpoint_threshold = '1GB'")
        con.execute("CREATE TABLE other AS SELECT range AS a FROM range(100)")
        return Path(f"{path}.wal").read_bytes()
    finally:
        con.close()


# ---- what is published ------------------------------------------------------------------------------------


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


# ---- what others do ---------------------------------------------------------------------------------------


def test_the_same_process_sees_what_was_published_since(store: ArtifactStore) -> None:
    rebuild(store)
    assert entries(store) == ["additive"]
    with database.connect(store) as kept:
        add_run(store, "ridge", [0.9] * 5)
        rebuild(store)
        assert entries(store) == ["ridge", "additive"]
        assert kept.execute("SELECT count(*) FROM runs").fetchall() == [(1,)]
    assert entries(store) == ["ridge", "additive"]


def test_two_readers_can_be_open_at_once(store: ArtifactStore) -> None:
    rebuild(store)
    with database.connect(store) as one, database.connect(store) as two:
        assert (
            one.execute("SELECT count(*) FROM runs").fetchall()
            == two.execute("SELECT count(*) FROM runs").fetchall()
        )


@pytest.mark.parametrize("beside", ["leaderboard.duckdb.wal", "leaderboard-1.duckdb.wal"])
def test_a_log_that_a_client_left_does_no_harm_after_a_refresh(
    store: ArtifactStore, wal_of_another: bytes, beside: str
) -> None:
    rebuild(store)
    (store.runs / beside).write_bytes(wal_of_another)
    rebuild(store)
    assert entries(store) == ["additive"]


def test_a_log_beside_the_link_does_no_harm_at_all(store: ArtifactStore, wal_of_another: bytes) -> None:
    rebuild(store)
    (store.runs / "leaderboard.duckdb.wal").write_bytes(wal_of_another)
    assert entries(store) == ["additive"]


def test_a_log_of_a_file_that_was_deleted_does_no_harm(store: ArtifactStore, wal_of_another: bytes) -> None:
    rebuild(store).unlink()
    store.leaderboard.unlink()
    (store.runs / "leaderboard-1.duckdb.wal").write_bytes(wal_of_another)
    assert rebuild(store).name == "leaderboard-1.duckdb"
    assert entries(store) == ["additive"]


WRITER = """
import sys, duckdb
con = duckdb.connect(sys.argv[1])
con.execute("CREATE TABLE mine (a INTEGER)")
con.execute("INSERT INTO mine VALUES (1)")
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def writer(store: ArtifactStore) -> Iterator[subprocess.Popen[str]]:
    """Return another process that holds the published file open for writing."""
    rebuild(store)
    command = [sys.executable, "-c", WRITER, str(store.leaderboard)]
    # A read-only file refuses whom it can: the mode is put back for a test that must not depend on the user.
    store.leaderboard.resolve().chmod(0o644)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.communicate("\n")


def test_a_client_that_holds_the_file_open_for_writing_does_no_harm(
    store: ArtifactStore, writer: subprocess.Popen[str]
) -> None:
    add_run(store, "ridge", [0.9] * 5)
    for n in range(2, 5):
        assert rebuild(store).name == f"leaderboard-{n}.duckdb"
        assert entries(store) == ["ridge", "additive"]
    assert not (store.runs / "leaderboard-1.duckdb").exists()
    assert writer.poll() is None
    assert "mine" not in set(database.query(store, "SELECT table_name FROM duckdb_tables()")["table_name"])


def test_a_file_open_for_writing_elsewhere_is_refused_by_its_name(
    store: ArtifactStore, writer: subprocess.Popen[str]
) -> None:
    assert writer.poll() is None
    with pytest.raises(StoreError, match=r"leaderboard-1\.duckdb cannot be opened \("):
        entries(store)


RACER = """
import sys
import pandas as pd
from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
store = ArtifactStore(sys.argv[1], sys.argv[2])
split = {"split_hash": "a" * 64, "board": "board", "cv_k": None, "unit": "combo", "ceiling": None, "floor": None}
splits = pd.DataFrame([split])
datasets = pd.DataFrame({"dataset": ["screen"]})
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    print(database.rebuild(store, lambda: splits, lambda runs: datasets).name, flush=True)
"""


def test_racing_rebuilds_all_succeed(store: ArtifactStore) -> None:
    command = [sys.executable, "-c", RACER, str(store.home), str(store.split_dir)]
    racers = [
        subprocess.Popen(
            command,
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    published = []
    for racer in racers:
        out, err = racer.communicate(timeout=120)
        assert racer.returncode == 0, err
        published += out.split()
    assert sorted(published) == [f"leaderboard-{n}.duckdb" for n in range(1, 7)]
    assert store.leaderboard.readlink() == Path("leaderboard-6.duckdb")
    assert sorted(p.name for p in store.runs.glob("leaderboard-*")) == [
        f"leaderboard-{n}.duckdb" for n in (4, 5, 6)
    ]
    assert entries(store) == ["additive"]


def test_files_of_a_killed_rebuild_are_removed_and_a_live_writers_are_not(store: ArtifactStore) -> None:
    host, _, pid, started, _ = new_token().split("@")
    gone = ["", f"{host}@00000000@{pid}@{started}@aa."]
    kept = [f"{new_token()}.", f"elsewhere@00000000@{pid}@{started}@aa."]
    for token in (*gone, *kept):
        for name in (f".leaderboard-1.duckdb.{token}building", f".leaderboard-1.duckdb.{token}building.wal"):
            (store.runs / name).write_bytes(b"half")
    rebuild(store)
    left = {p.name for p in store.runs.glob(".leaderboard-*")}
    assert left == {f".leaderboard-1.duckdb.{t}building{end}" for t in kept for end in ("", ".wal")}
    assert entries(store) == ["additive"]


def test_a_failed_rebuild_leaves_the_published_one(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuild(store)
    add_run(store, "ridge", [0.9] * 5)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(database, "fsync_path", refuse)
    with pytest.raises(
        DiskError, match=r"cannot write .*leaderboard-2.duckdb: the disk is full; it needs more than .* free"
    ):
        rebuild(store)
    assert entries(store) == ["additive"]
    assert sorted(p.name for p in store.runs.glob("*leaderboard-*")) == ["leaderboard-1.duckdb"]


def _without(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def _filled(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content)  # type: ignore[func-returns-value]


def _changed(**columns: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        file = run / "scores.parquet"
        pd.read_parquet(file).assign(**columns).to_parquet(file)

    return change


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(_filled("scores.parquet", b"half"), "scores.parquet cannot be read", id="half scores"),
        pytest.param(_filled("scores.parquet", b""), "scores.parquet cannot be read", id="empty scores"),
        pytest.param(_changed(value="high"), "scores.parquet cannot be read", id="text for a value"),
        pytest.param(_changed(run_id="another"), "scores.parquet holds scores of run another", id="another's scores"),
        pytest.param(_filled("config.json", b"{"), "config.json is not valid JSON", id="half record"),
        pytest.param(_filled("config.json", b"[]"), "config.json is not the record of a run", id="other record"),
        pytest.param(_filled("config.json", b"\xff\xfe"), "config.json", id="bytes for a record"),
        pytest.param(_without("config.json"), "is not whole: it lacks config.json", id="no record"),
        pytest.param(_without("metrics.json"), "is not whole: it lacks metrics.json", id="no metrics"),
    ],
)  # fmt: skip
def test_one_unreadable_run_is_skipped_and_named(
    store: ArtifactStore, damage: Callable[[Path], None], reason: str
) -> None:
    add_run(store, "ridge", [0.9] * 5)
    name = run_config("ridge")["run_id"]
    damage(store.run(name))
    rebuild(store)
    assert entries(store) == ["additive"]
    skipped = database.query(store, "SELECT * FROM skipped")
    assert skipped[["run", "kind"]].to_numpy().tolist() == [[name, "run"]]
    assert reason in skipped["reason"][0]
    assert "\n" not in skipped["reason"][0]


def test_a_copy_of_a_run_is_not_counted_twice(store: ArtifactStore) -> None:
    add_run(store, "ridge", [0.9] * 5)
    name = run_config("ridge")["run_id"]
    shutil.copytree(store.run(name), store.run(f"{name}_copy"))
    rebuild(store)
    assert entries(store) == ["ridge", "additive"]
    assert database.query(store, "SELECT run FROM skipped")["run"].tolist() == [f"{name}_copy"]


def test_a_refresh_of_unreadable_runs_alone_leaves_an_empty_leaderboard(store: ArtifactStore) -> None:
    (run,) = store.run_dirs()
    (run / "scores.parquet").write_bytes(b"")
    rebuild(store)
    assert entries(store) == []
    assert database.query(store, "SELECT run FROM skipped")["run"].tolist() == [run.name]


def test_a_plain_file_in_place_of_the_link_is_refused(store: ArtifactStore) -> None:
    store.leaderboard.write_text("mine")
    with pytest.raises(StoreError, match="is a plain file, not this program's link; move it away"):
        rebuild(store)
    assert store.leaderboard.read_text() == "mine"
    assert not list(store.runs.glob("leaderboard-*"))


def test_a_link_to_nowhere_is_replaced(store: ArtifactStore) -> None:
    store.leaderboard.symlink_to("leaderboard-7.duckdb")
    rebuild(store)
    assert entries(store) == ["additive"]


def test_a_path_with_a_quote_can_be_published(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "it's home", tmp_path / "splits")
    add_run(store, "additive", [0.5] * 5)
    rebuild(store)
    assert entries(store) == ["additive"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """Return a store with one run whose leaderboard is published, for tests that only read."""
    folder = tmp_path_factory.mktemp("published")
    store = ArtifactStore(folder / "home", folder / "splits")
    add_run(store, "additive", [0.5] * 5)
    rebuild(store)
    return store


# ---- reading ----------------------------------------------------------------------------------------------


def test_without_a_leaderboard_there_is_nothing_to_read(store: ArtifactStore) -> None:
    with pytest.raises(
        StoreError, match=r"there is no leaderboard at .*; run `perturbfm leaderboard refresh` first"
    ):
        entries(store)


def test_a_damaged_file_is_named(store: ArtifactStore) -> None:
    target = rebuild(store)
    target.chmod(0o644)
    target.write_bytes(b"not a database")
    with pytest.raises(StoreError, match=r"leaderboard-1\.duckdb cannot be opened \("):
        entries(store)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        pytest.param("SELECT * FROM read_text('/etc/hostname')", "file system operations are disabled", id="read"),
        pytest.param("SELECT * FROM read_csv('/etc/passwd')", "file system operations are disabled", id="csv"),
        pytest.param("SELECT * FROM glob('/etc/*')", "file system operations are disabled", id="list"),
        pytest.param("COPY (SELECT 1) TO 'out.csv'", "file system operations are disabled", id="write"),
        pytest.param("ATTACH 'other.duckdb' AS other", "file system operations are disabled", id="attach"),
        pytest.param("SET enable_external_access = true", "Cannot enable external access", id="set"),
        pytest.param("RESET enable_external_access", "Cannot enable external access", id="reset"),
        pytest.param("LOAD httpfs", "Loading external extensions is disabled", id="extension"),
        pytest.param("DELETE FROM runs", "read-only mode", id="delete"),
        pytest.param("CREATE TABLE mine (a INTEGER)", "read-only mode", id="create"),
        pytest.param("DROP VIEW leaderboard", "read-only mode", id="drop"),
        pytest.param("SELECT * FROM nothing", "tables: scores, runs, splits, datasets, standings, skipped; views?: leaderboard", id="unknown"),
        pytest.param("SELEC", "Parser Error", id="syntax"),
    ],
)  # fmt: skip
def test_a_statement_reaches_nothing_but_the_leaderboard(
    published: ArtifactStore, tmp_path: Path, sql: str, message: str
) -> None:
    def files() -> set[Path]:
        # The working directory is the test's own.
        return {p for folder in (tmp_path, published.home.parent) for p in folder.rglob("*") if p.is_file()}

    before = files()
    with pytest.raises(StoreError, match=f"SQL failed: .*{message}"):
        database.query(published, sql)
    assert files() == before
    assert entries(published) == ["additive"]


@pytest.mark.parametrize("sql", ["", "-- nothing", ";"])
def test_no_statement_gives_no_rows(published: ArtifactStore, sql: str) -> None:
    assert database.query(published, sql).empty


def test_a_reader_is_closed_when_its_block_fails(store: ArtifactStore) -> None:
    rebuild(store)
    kept = []

    def fail() -> None:
        with database.connect(store) as con:
            kept.append(con)
            con.execute("SELECT * FROM nothing")

    with pytest.raises(StoreError, match="nothing does not exist"):
        fail()
    with pytest.raises(duckdb.Error, match="closed"):
        kept[0].execute("SELECT 1")
