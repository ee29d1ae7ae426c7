"""The storage of ``dagster.yaml``: Dagster's own SQLite files, opened with less work per event.

Dagster makes a new engine, which asks the file for its version and features, for every event that it writes or reads,
reads all of its migrations for every run's file, and has the file's journal written back and removed after every event. The
files are the same with and without this class.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from perturbfm_assets.run_removal import CancellingRunStorage
from perturbfm_core.store.owner import new_token

# A server meets many runs; an engine holds no file open, only what it learned of it.
KEPT_ENGINES = 64
BUSY_TIMEOUT_SECONDS = 60
# Files that are written to are held open: the journal of the last to be closed is written back, with a wait for the disk.
HELD_OPEN = 8


class KeptEnginesEventLog(SqliteEventLogStorage):
    """Event log in one SQLite file per run, with one engine per file."""

    def __init__(self, base_dir: str) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._held: OrderedDict[str, sqlite3.Connection] = OrderedDict()
        self._empty: bytes | None = None
        super().__init__(base_dir)

    @contextlib.contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine(shard)
            if shard not in self._initialized_dbs:
                self._initialise(shard, engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection:
                with connection.begin():
                    yield connection
                driver = connection.connection.driver_connection
                if driver is not None and driver.total_changes:
                    self._wrote(shard)

    def _wrote(self, shard: str) -> None:
        """Hold a file open that was written to, and tell those who watch it, for they do not look at the journal."""
        path = self.path_for_shard(shard)
        if shard not in self._held:
            held = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, check_same_thread=False)
            # Connected by the first look into the file.
            held.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
            self._held[shard] = held
            if len(self._held) > HELD_OPEN:
                self._held.popitem(last=False)[1].close()
        self._held.move_to_end(shard)
        with contextlib.suppress(OSError):
            os.utime(path)

    def _let_go(self) -> None:
        while self._held:
            self._held.popitem()[1].close()

    def wipe(self) -> None:
        """Delete all events."""
        with self._db_lock:
            self._let_go()
        super().wipe()

    def dispose(self) -> None:
        """Close what is open."""
        super().dispose()
        with self._db_lock:
            self._let_go()

    def _engine(self, shard: str) -> Engine:
        if shard not in self._engines:
            self._engines[shard] = create_engine(
                self.conn_string_for_shard(shard),
                poolclass=NullPool,
                connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
            )
            event.listen(self._engines[shard], "connect", _without_waiting)
            if len(self._engines) > KEPT_ENGINES:
                self._engines.popitem(last=False)[1].dispose()
        self._engines.move_to_end(shard)
        return self._engines[shard]

    def _initialise(self, shard: str, engine: Engine) -> None:
        # The first new file is made by Dagster; later ones are copies of it while it was empty.
        path = Path(self.path_for_shard(shard))
        is_new = not path.exists()
        if is_new and self._empty is not None and _placed(path, self._empty):
            return
        self._initdb(engine)
        if is_new and self._empty is None:
            with contextlib.closing(sqlite3.connect(path)) as connection:
                rows = connection.execute("SELECT COUNT(*) FROM event_logs").fetchone()[0]
                self._empty = connection.serialize() if rows == 0 else None


def _without_waiting(connection: sqlite3.Connection, _: object) -> None:
    """Let the journal reach the disk when the system writes it: a killed process loses nothing, a power failure the last events."""
    connection.execute("PRAGMA synchronous=NORMAL")


def _placed(path: Path, content: bytes) -> bool:
    """Return whether a new file was put into place whole; another may be there, or the disk may know no links."""
    part = path.with_name(f".{path.name}.{new_token()}.part")
    try:
        part.write_bytes(content)
        os.link(part, path)
    except OSError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Hold a folder while files are made there: two processes that begin at once would both make the same tables."""
    os.makedirs(folder, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some file systems know no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class LocalStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite files under one folder."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        with _alone(base_dir):
            super().__init__(base_dir, inst_data)
            self._run_storage = CancellingRunStorage.from_local(os.path.join(base_dir, "history"))
            self._event_log_storage = KeptEnginesEventLog(os.path.join(base_dir, "history", "runs", ""))

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> LocalStorage:
        """Return the storage in the folder that ``dagster.yaml`` names."""
        return cls.from_local(inst_data=inst_data, **config_value)
