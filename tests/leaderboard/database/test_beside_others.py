"""Publishing beside readers, writers, killed refreshes and damaged runs."""

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
import pandas as pd
import pytest

from perturbfm_core.errors import DiskError, StoreError
from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.owner import new_token
from tests.support.factories import run_config
from tests.support.paths import REPO
from tests.support.small_leaderboard import add_run, entries, rebuild


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
