"""Reading the published leaderboard: statements that reach nothing else, damaged files."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard import database
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.small_leaderboard import add_run, entries, rebuild


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
