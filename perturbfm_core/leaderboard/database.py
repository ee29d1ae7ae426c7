"""DuckDB database of the leaderboard, rebuilt as a whole and published by switching a link.

DuckDB allows one writer, which an open reader blocks. Published files are therefore never written: each rebuild
creates a new ``leaderboard-<n>.duckdb`` under a lock, makes it read-only and switches the link ``leaderboard.duckdb``.
The last three files are kept for readers that have one open.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.collect import RUN_COLUMNS, SCORE_COLUMNS, SKIPPED_COLUMNS, collect
from perturbfm_core.leaderboard.columns import Columns, typed
from perturbfm_core.leaderboard.peer_views import PEER_VIEWS
from perturbfm_core.leaderboard.standings import STANDING_COLUMNS, standings
from perturbfm_core.leaderboard.tables import DATASET_COLUMNS, SPLIT_COLUMNS
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import fsync_path
from perturbfm_core.store.disk import writing
from perturbfm_core.store.owner import has_ended, new_token

KEEP = 3
_VERSION = "v1.2.0"
_FILE = re.compile(r"^leaderboard-(\d+)\.duckdb$")
_COLUMNS: dict[str, Columns] = {
    "scores": SCORE_COLUMNS,
    "runs": RUN_COLUMNS,
    "splits": SPLIT_COLUMNS,
    "datasets": DATASET_COLUMNS,
    "standings": STANDING_COLUMNS,
    "skipped": SKIPPED_COLUMNS,
}

_VIEW = """
CREATE VIEW leaderboard AS
SELECT
  board, dataset, split_kind, panel, metric,
  CASE WHEN ranked THEN rank() OVER (
    PARTITION BY board, panel, metric, ranked ORDER BY n_undefined, badness) END AS rank,
  entry, model, family, value, ci_low, ci_high,
  diff AS diff_best_baseline, diff_low, diff_high, best_baseline,
  ceiling, ceiling_noise_free, null_floor, train_mean_floor, control_mean_floor,
  n_conditions, n_undefined, n_units, n_seeds, n_splits, n_splits_expected, n_splits_no_signal,
  no_signal, shared_control, direction, metric_version
FROM standings
ORDER BY board, panel, metric, rank NULLS LAST, entry
"""


def rebuild(
    store: ArtifactStore,
    splits: Callable[[], pd.DataFrame],
    datasets: Callable[[pd.DataFrame], pd.DataFrame],
) -> Path:
    """Rebuild the leaderboard from all complete runs and publish it; return the new file.

    Parameters
    ----------
    store
        The store of the runs, in which the database is published.
    splits
        () -> table of splits; called under the lock, after the runs were listed.
    datasets
        (table of runs) -> table of data sets; called likewise.

    Raises
    ------
    StoreError
        If a plain file is in place of the link.
    """
    with store.lock("leaderboard"):
        if store.leaderboard.exists() and not store.leaderboard.is_symlink():
            msg = f"{store.leaderboard} is a plain file, not this program's link; move it away"
            raise StoreError(msg)
        runs = collect(store)
        split_table = splits()
        ranked = standings(runs, split_table)
        plain_splits = split_table.drop(columns=["ceiling", "floor"])
        tables = {
            "scores": runs.scores,
            "runs": runs.table.drop(columns=["dataset_record"], errors="ignore"),
            "splits": plain_splits,
            "datasets": datasets(runs.table),
            "standings": ranked,
            "skipped": pd.DataFrame(sorted(runs.skipped.items()), columns=list(SKIPPED_COLUMNS)),
        }
        _sweep(store)
        number = max((n for n, _ in _published(store)), default=0) + 1
        target = store.runs / f"leaderboard-{number}.duckdb"
        _write(target, tables)
        _switch(store.leaderboard, target)
        for _, old in sorted(_published(store))[:-KEEP]:
            _remove(old)
        return target


def _published(store: ArtifactStore) -> list[tuple[int, Path]]:
    found = [(m, p) for p in store.runs.glob("leaderboard-*.duckdb") if (m := _FILE.match(p.name))]
    return [(int(m.group(1)), p) for m, p in found]


def _write(target: Path, tables: dict[str, pd.DataFrame]) -> None:
    building = target.with_name(f".{target.name}.{new_token()}.building")
    try:
        with writing(target, staged=building):
            _fill(building, tables)
            # A write-ahead log left by an earlier file of this name would make the new one unreadable.
            _remove(target.with_name(target.name + ".wal"))
            building.rename(target)
    finally:
        _remove(building)
        _remove(building.with_name(building.name + ".wal"))


def _fill(building: Path, tables: dict[str, pd.DataFrame]) -> None:
    con = duckdb.connect()
    try:
        con.execute(f"ATTACH '{_quoted(building)}' AS board (STORAGE_VERSION '{_VERSION}')")
        con.execute("USE board")
        for name, frame in tables.items():
            con.register("incoming", typed(frame, _COLUMNS[name]))
            con.execute(f'CREATE TABLE "{name}" AS SELECT * FROM incoming')
            con.unregister("incoming")
        con.execute(_VIEW)
        for view in PEER_VIEWS:
            con.execute(view)
        con.execute("CHECKPOINT board")
        con.execute("USE memory")
        con.execute("DETACH board")
    finally:
        con.close()
    _remove(building.with_name(building.name + ".wal"))
    fsync_path(building)
    building.chmod(0o444)


def _sweep(store: ArtifactStore) -> None:
    """Remove what ended writers were building; another host's lock may be unknown here, so its files stay."""
    for left in store.runs.glob(".leaderboard*.building*"):
        token = left.name.partition(".duckdb.")[2].partition("building")[0].removesuffix(".")
        # Without a token it is of an earlier version of this program.
        if not token or has_ended(token):
            _remove(left)
    for left in store.runs.glob(f".{store.leaderboard.name}.*.tmp"):
        if has_ended(left.name.removeprefix(f".{store.leaderboard.name}.").removesuffix(".tmp")):
            _remove(left)


def _quoted(path: Path) -> str:
    return _openable(path).replace("'", "''")


def _openable(path: Path) -> str:
    """Return a path as DuckDB is given it; it reads two characters of a path as something else."""
    whole = str(path.resolve())
    if "?" in whole or "\\" in whole:
        msg = f"{path.parent} has a question mark or a backslash in its path, which DuckDB does not open; move the folder"
        raise StoreError(msg)
    return whole


def _switch(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.{new_token()}.tmp")
    with writing(link):
        temporary.symlink_to(target.name)
        temporary.replace(link)
        fsync_path(link.parent)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def connect(store: ArtifactStore) -> Iterator[Any]:
    """Open the published leaderboard read-only, and close it afterwards.

    The link is resolved first, so that the same process never gets the cached connection of an older file, and a log
    that another client left beside the link has no effect.

    Raises
    ------
    StoreError
        If there is no leaderboard yet, or it cannot be opened.
    """
    for attempt in range(3):
        target = store.leaderboard.resolve()
        if not target.is_file():
            msg = f"there is no leaderboard at {store.leaderboard}; run `perturbfm leaderboard refresh` first"
            raise StoreError(msg)
        try:
            con = duckdb.connect(_openable(target), read_only=True)
            break
        except duckdb.Error as error:
            # A refresh may have removed this file between resolving and opening it.
            if attempt == 2 or target.is_file():
                msg = f"{target} cannot be opened ({' '.join(str(error).split())[:160]})"
                raise StoreError(msg) from error
            time.sleep(0.05)
    try:
        con.execute("SET enable_external_access = false")
        yield con
    finally:
        con.close()


def query(store: ArtifactStore, sql: str) -> pd.DataFrame:
    """Run one read-only SQL statement on the leaderboard.

    Raises
    ------
    StoreError
        If the statement is not valid; the message names the tables.
    """
    with connect(store) as con:
        try:
            result = con.execute(sql)
            return pd.DataFrame() if result is None else result.df()
        except duckdb.Error as error:
            detail = " ".join(str(error).split())[:300]
            msg = f"SQL failed: {detail}; tables: scores, runs, splits, datasets, standings, skipped; views: leaderboard, scperturbench_scores"
            raise StoreError(msg) from error
