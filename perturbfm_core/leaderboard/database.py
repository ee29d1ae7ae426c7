"""DuckDB database of the leaderboard, brought up to date in a copy and published by switching a link.

DuckDB allows one writer, which an open reader blocks. Published files are therefore never written: each refresh
makes a new ``leaderboard-<n>.duckdb`` under a lock, read-only, and switches the link ``leaderboard.duckdb``. The last
three files are kept for readers that have one open. A new file begins as a copy of the last one, in which only what
changed is written; where other code made that one, or another program changed it, it is made from all runs.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.database_writer import DatabaseWriter
from perturbfm_core.leaderboard.declared_metrics import code_digest
from perturbfm_core.leaderboard.kept_files import KeptFiles, remove
from perturbfm_core.leaderboard.refresh import Refresh
from perturbfm_core.leaderboard.score_parts import PARTS_FOLDER, ScoreParts
from perturbfm_core.leaderboard.views import VIEW_NAMES, moved_views
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import fsync_path
from perturbfm_core.store.disk import writing
from perturbfm_core.store.owner import new_token

_VERSION = "v1.2.0"
_MEMORY = "1GB"
_NAMES = (
    "tables: scores, runs, splits, datasets, standings, skipped; "
    f"views: {', '.join(v for v in VIEW_NAMES if v != 'scores')}; more tables: global_scores, pairwise, published"
)
_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?", re.IGNORECASE)


def rebuild(
    store: ArtifactStore,
    splits: Callable[[], pd.DataFrame],
    datasets: Callable[[pd.DataFrame], pd.DataFrame],
    *,
    from_nothing: bool = False,
) -> Path:
    """Bring the leaderboard up to date with all complete runs and publish it; return the new file.

    Parameters
    ----------
    store
        The store of the runs, in which the database is published.
    splits
        () -> table of splits; called under the lock, after the runs were listed.
    datasets
        (table of runs) -> table of data sets; called likewise.
    from_nothing
        Whether all runs are read again.

    Raises
    ------
    StoreError
        If a plain file is in place of the link.
    """
    with store.lock("leaderboard"):
        if store.leaderboard.exists() and not store.leaderboard.is_symlink():
            msg = f"{store.leaderboard} is a plain file, not this program's link; move it away"
            raise StoreError(msg)
        parts = ScoreParts(store.runs / PARTS_FOLDER)
        kept = KeptFiles(store, parts)
        kept.sweep()
        target = kept.next()
        earlier = None if from_nothing else kept.newest()

        def write(refresh: Refresh) -> list[str]:
            return refresh.run(splits, datasets)

        try:
            _write(store, parts, kept, target, earlier, write)
        except duckdb.Error:
            if earlier is None:
                raise
            # The copy could not be read.
            _write(store, parts, kept, target, None, write)
        kept.switch(target)
        kept.forget()
        return target


def _write(
    store: ArtifactStore,
    parts: ScoreParts,
    kept: KeptFiles,
    target: Path,
    earlier: Path | None,
    write: Callable[[Refresh], list[str]],
) -> None:
    building = target.with_name(f".{target.name}.{new_token()}.building")
    code = code_digest()
    try:
        with writing(target, staged=building):
            if earlier is not None and _made_by(earlier, code):
                shutil.copyfile(earlier, building)
                building.chmod(0o644)
            store.runs.mkdir(parents=True, exist_ok=True)
            with _attached(building) as con:
                names = write(Refresh(store, DatabaseWriter(con), parts, code))
            remove(building.with_name(building.name + ".wal"))
            fsync_path(building)
            building.chmod(0o444)
            kept.note(building, target, names)
            # A write-ahead log left by an earlier file of this name would make the new one unreadable.
            remove(target.with_name(target.name + ".wal"))
            building.rename(target)
    finally:
        remove(building)
        remove(building.with_name(building.name + ".wal"))


@contextlib.contextmanager
def _attached(file: Path) -> Iterator[Any]:
    """Attach a database for writing, and close it whole."""
    con = duckdb.connect(config={"memory_limit": _MEMORY})
    try:
        con.execute(f"ATTACH '{_quoted(file)}' AS board (STORAGE_VERSION '{_VERSION}')")
        con.execute("USE board")
        yield con
        con.execute("CHECKPOINT board")
        con.execute("USE memory")
        con.execute("DETACH board")
    finally:
        con.close()


def _made_by(file: Path, code: str) -> bool:
    try:
        con = duckdb.connect(_openable(file), read_only=True)
    except duckdb.Error:
        return False
    try:
        return DatabaseWriter(con).code() == code
    except duckdb.Error:
        return False
    finally:
        con.close()


def _quoted(path: Path) -> str:
    return _openable(path).replace("'", "''")


def _openable(path: Path) -> str:
    """Return a path as DuckDB is given it; it reads two characters of a path as something else."""
    whole = str(path.resolve())
    if "?" in whole or "\\" in whole:
        msg = f"{path.parent} has a question mark or a backslash in its path, which DuckDB does not open; move the folder"
        raise StoreError(msg)
    return whole


@contextlib.contextmanager
def connect(store: ArtifactStore, *, scores: bool = True) -> Iterator[Any]:
    """Open the published leaderboard read-only, and close it afterwards.

    The link is resolved first, so that the same process never gets the cached connection of an older file, and a log
    that another client left beside the link has no effect.

    Parameters
    ----------
    store
        The store of the leaderboard.
    scores
        Whether the files of scores can be read, which the view `scores` needs; no other file ever can.

    Raises
    ------
    StoreError
        If there is no leaderboard yet, it cannot be opened, or it lacks what is read of it.
    """
    for attempt in range(3):
        target = store.leaderboard.resolve()
        if not target.is_file():
            msg = f"there is no leaderboard at {store.leaderboard}; run `perturbfm leaderboard refresh` first"
            raise StoreError(msg)
        con = duckdb.connect()
        try:
            con.execute(f"ATTACH '{_quoted(target)}' AS leaderboard (READ_ONLY)")
            break
        except duckdb.Error as error:
            con.close()
            # A refresh may have removed this file between resolving and opening it.
            if attempt == 2 or target.is_file():
                msg = f"{target} cannot be opened ({' '.join(str(error).split())[:160]})"
                raise StoreError(msg) from error
            time.sleep(0.05)
    try:
        con.execute("USE leaderboard")
        if scores:
            _open_scores(con, (store.runs / PARTS_FOLDER).resolve())
        con.execute("SET enable_external_access = false")
        yield con
    except duckdb.Error as error:
        detail = " ".join(str(error).split())[:160]
        msg = f"{target} cannot be read ({detail}); run `perturbfm leaderboard refresh`{_of_other_code(con)}"
        raise StoreError(msg) from error
    finally:
        con.close()


def _open_scores(con: Any, folder: Path) -> None:
    """Let a connection read the files of scores, wherever the store lies by now."""
    quoted = str(folder).replace("'", "''")
    con.execute(f"SET allowed_directories = ['{quoted}/']")
    with contextlib.suppress(duckdb.CatalogException):
        if con.execute("SELECT path FROM internal.root").fetchall() != [(str(folder),)]:
            names = con.execute("SELECT name FROM internal.parts ORDER BY name").fetchall()
            for view in moved_views([folder / name for (name,) in names]):
                con.execute(view)


def query(store: ArtifactStore, sql: str) -> pd.DataFrame:
    """Run one read-only SQL statement on the leaderboard.

    Raises
    ------
    StoreError
        If the statement is not valid; the message names the tables.
    """
    with connect(store, scores=_only_selects(sql)) as con:
        try:
            result = con.execute(sql)
            return pd.DataFrame() if result is None else result.df()
        except duckdb.Error as error:
            detail = " ".join(str(error).split())[:300]
            other = _of_other_code(con)
            again = f"; `perturbfm leaderboard refresh` makes it anew{other}" if other else ""
            msg = f"SQL failed: {detail}; {_NAMES}{again}"
            raise StoreError(msg) from error


def _of_other_code(con: Any) -> str:
    """Return what is to be said of a leaderboard that other code made than the present one, if that is so."""
    try:
        same = DatabaseWriter(con).code() == code_digest()
    except duckdb.Error:
        same = False
    return "" if same else ": the leaderboard was made by another version of this program or of its plug-ins"


def _only_selects(sql: str) -> bool:
    """Return whether statements only select, or explain a selection: what else may write where it may read."""
    try:
        for statement in duckdb.extract_statements(sql):
            if statement.type == duckdb.StatementType.EXPLAIN:
                if not _only_selects(_EXPLAIN.sub("", statement.query, count=1)):
                    return False
            elif statement.type != duckdb.StatementType.SELECT:
                return False
    except duckdb.Error:
        return False
    return True
