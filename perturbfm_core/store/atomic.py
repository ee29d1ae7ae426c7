"""Atomic writes, locks and staging folders: a killed process leaves the old state or the new one, never a part.

Files are written to a temporary name, flushed to disk and renamed; directories are staged beside their
destination and published by one rename. Stale temporary files and staging folders are swept by the next writer once
their lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from perturbfm_core.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd


def fsync_path(path: Path) -> None:
    """Flush one file or directory to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_locked(path: Path) -> BinaryIO:
    """Create `path` for writing, locked for as long as it is open: who finds the lock free may remove it."""
    while True:
        handle = path.open("wb")
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                return handle
        handle.close()  # swept between opening and locking


@contextlib.contextmanager
def _if_stale(path: Path) -> Iterator[bool]:
    """Yield whether the writer of a file that `_open_locked` made is gone; its lock is held meanwhile."""
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(path.open("rb"))
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stale = True
        except (BlockingIOError, FileNotFoundError, IsADirectoryError):
            stale = False
        yield stale


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file: the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with _if_stale(left) as stale:
            if stale:
                left.unlink(missing_ok=True)
    tmp = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with _open_locked(tmp) as handle:
            handle.write(data.encode() if isinstance(data, str) else data)
            handle.flush()
            os.fsync(handle.fileno())
            tmp.replace(path)
        fsync_path(path.parent)
    finally:
        tmp.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON (indented, no NaN) atomically."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, error: type[Exception] = StoreError) -> Any:
    """Read a JSON file; a missing or damaged one raises `error` in one line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path} does not exist"
        raise error(msg) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        msg = f"{path} is not valid JSON ({exc}); restore it or make it again"
        raise error(msg) from exc


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive advisory lock on `path`; yields False at once if busy and `wait` is off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


class Staging:
    """A private directory that becomes an artifact by one rename, or disappears."""

    def __init__(self, root: Path) -> None:
        token = uuid.uuid4().hex
        self._lock_path = root / f"{token}.lock"
        self.path = root / token
        root.mkdir(parents=True, exist_ok=True)
        self._lock = _open_locked(self._lock_path)
        self.path.mkdir()

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock_path.unlink(missing_ok=True)
        self._lock.close()

    def publish(self, destination: Path) -> None:
        """Flush everything staged and rename it to `destination`, which must not exist."""
        for folder, _, files in os.walk(self.path):
            for name in files:
                fsync_path(Path(folder) / name)
            fsync_path(Path(folder))
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.exists():
            msg = f"{destination} already exists; choose another place or remove it first"
            raise StoreError(msg)
        self.path.rename(destination)
        fsync_path(destination.parent)

    def set_aside(self, destination: Path) -> Path:
        """Move an existing `destination` away; whoever sweeps after a kill puts it back."""
        aside = self.path.with_name(f"{self.path.name}.old.{destination.name}")
        destination.rename(aside)
        return aside


def sweep_staging(root: Path) -> list[Path]:
    """Remove staging folders whose writer is gone (its lock is free); return what was removed.

    What a writer had set aside and not yet replaced goes back to its place beside `root`.
    """
    removed = []
    for lock_path in sorted(root.glob("*.lock")):
        with _if_stale(lock_path) as stale:
            if not stale:
                continue
            folder = lock_path.with_suffix("")
            for aside in root.glob(f"{folder.name}.old.*"):
                place = root.parent / aside.name.removeprefix(f"{folder.name}.old.")
                if place.exists():
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    aside.rename(place)
            shutil.rmtree(folder, ignore_errors=True)
            lock_path.unlink(missing_ok=True)
            removed.append(folder)
    return removed


def publish_directory(destination: Path, fill: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Make the directory `destination` by `fill(staged)`, staged beside it and renamed into place.

    With `overwrite` an existing directory is moved aside just before and removed after.
    """
    root = destination.parent / ".staging"
    if root.is_dir():
        sweep_staging(root)
    if destination.exists() and not overwrite:
        msg = f"{destination} already exists; choose another place, or give --force to replace it"
        raise StoreError(msg)
    try:
        with Staging(root) as staging:
            fill(staging.path)
            if destination.exists():
                old = staging.set_aside(destination)
                try:
                    staging.publish(destination)
                except BaseException:
                    old.rename(destination)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                staging.publish(destination)
    finally:
        with contextlib.suppress(OSError):
            root.rmdir()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as the content of a Parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
