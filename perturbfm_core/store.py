"""The artifact store: the only place where paths are built, and every write is atomic.

Files are written to a temporary name, flushed to disk and renamed; directories are staged beside their
destination and published by one rename. A killed process leaves the old state and stale temporary files or a
stale staging folder, which the next writer sweeps once their lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from perturbfm_core import schema
from perturbfm_core.errors import StoreError

RUN_ID_PATTERN = re.compile(r"^\d{8}-\d{6}_[0-9a-f]{7}_[a-z0-9][a-z0-9_.-]*_[0-9a-f]{8}(-[0-9a-f]{4})?$")


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


class ArtifactStore:
    """Where artifacts lie.

    Parameters
    ----------
    home
        Root of ``data/`` and ``runs/``; default ``PERTURBFM_HOME`` or the current directory.
    split_dir
        Folder of the frozen splits; default ``PERTURBFM_SPLIT_DIR`` or ``./splits``.
    """

    def __init__(self, home: Path | str | None = None, split_dir: Path | str | None = None) -> None:
        self.home = Path(home or os.environ.get("PERTURBFM_HOME") or ".")
        self.split_dir = Path(split_dir or os.environ.get("PERTURBFM_SPLIT_DIR") or "splits")
        self.data = self.home / "data"
        self.runs = self.home / "runs"
        self.objects = self.runs / ".objects"
        self.staging_root = self.runs / ".staging"
        self.locks = self.runs / ".locks"
        self.leaderboard = self.runs / "leaderboard.duckdb"
        self.leaderboard_page = self.runs / "leaderboard.html"
        self.studies = self.runs / ".studies"

    def dataset(self, name: str) -> Path:
        """Return the directory of the data set called `name`."""
        return self.data / name

    def datasets(self) -> list[Path]:
        """Return every data set artifact under ``data/``."""
        return sorted(p.parent for p in self.data.glob(f"*/{schema.META_FILE}"))

    def graph(self, name: str) -> Path:
        """Return the file of the gene graph called `name`."""
        return self.data / "graphs" / f"{name}.npz"

    def feature_table(self, name: str) -> Path:
        """Return the file of the table of gene features called `name`."""
        return self.data / "features" / f"{name}.npz"

    def stage(self) -> Staging:
        """Open a staging directory under ``runs/.staging``, sweeping stale ones first."""
        sweep_staging(self.staging_root)
        return Staging(self.staging_root)

    # ---- immutable objects -----------------------------------------------------------------------

    def object(self, key: str) -> Path:
        """Return the directory of the immutable object with this key (it need not exist)."""
        return self.objects / key[:2] / key

    def checkpoints(self, key: str) -> Path:
        """Return the directory where the training of the object `key` keeps its state until it is published."""
        return self.runs / ".checkpoints" / key

    def put_object(self, key: str, fill: Callable[[Path], None]) -> Path:
        """Return the object `key`, made by `fill(directory)` if it is not there yet.

        Two racing writers both succeed; the first to publish wins.
        """
        path = self.object(key)
        if path.is_dir():
            return path
        with self.stage() as staging:
            fill(staging.path)
            try:
                staging.publish(path)
            except (StoreError, OSError):
                if not path.is_dir():
                    raise
        return path

    # ---- runs --------------------------------------------------------------------------------------

    def run(self, run_id: str) -> Path:
        """Return the directory of a run."""
        return self.runs / run_id

    def new_run_id(self, split_hash: str, model: str, config_hash: str) -> str:
        """Return an unused run id ``<UTC>_<split7>_<model>_<config8>[-<rand4>]``."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        base = run_id = f"{stamp}_{split_hash[:7]}_{model}_{config_hash[:8]}"
        while self.run(run_id).exists():
            run_id = f"{base}-{uuid.uuid4().hex[:4]}"
        return run_id

    def run_dirs(self) -> list[Path]:
        """Return the directories of all complete runs, oldest first."""
        return sorted(
            path
            for path in self.runs.glob("*_*_*")
            if path.is_dir() and all((path / name).is_file() for name in schema.RUN_FILES)
        )

    def find_run(self, name: str) -> Path:
        """Return a run by path, id or unique prefix of its id."""
        direct = Path(name)
        if (direct / schema.CONFIG_FILE).is_file():
            return direct
        hits = [p for p in self.run_dirs() if p.name.startswith(name)]
        if len(hits) == 1:
            return hits[0]
        found = "no run" if not hits else f"{len(hits)} runs"
        msg = f"{found} in {self.runs} match {name!r}; give a run directory or a longer prefix of its id"
        raise StoreError(msg)

    # ---- studies -------------------------------------------------------------------------------------

    def study(self, name: str) -> Path:
        """Return the SQLite file of the tuning study called `name`."""
        return self.studies / f"{name}.db"

    def study_page(self, name: str) -> Path:
        """Return the page of the tuning study called `name`."""
        return self.runs / f"study_{name}.html"

    # ---- locks ---------------------------------------------------------------------------------------

    def lock(self, name: str, *, wait: bool = True) -> contextlib.AbstractContextManager[bool]:
        """Return a lock shared by every process on this store; without `wait` it gives False if it is taken."""
        return file_lock(self.locks / f"{name}.lock", wait=wait)

    @contextlib.contextmanager
    def training_slot(self, waiting: Callable[[], None] | None = None) -> Iterator[int]:
        """Hold one of ``PERTURBFM_MAX_TRAIN`` (default 1) training slots; yields how many there are.

        `waiting` is called once if all slots are taken.
        """
        slots = max_train()
        told = False
        while True:
            for i in range(slots):
                with file_lock(self.locks / f"train-{i}.lock", wait=False) as held:
                    if held:
                        yield slots
                        return
            if not told and waiting is not None:
                waiting()
                told = True
            time.sleep(0.1)


def max_train() -> int:
    """Return how many trainings may run at once on this machine (``PERTURBFM_MAX_TRAIN``, default 1)."""
    text = os.environ.get("PERTURBFM_MAX_TRAIN", "1")
    if not text.isdecimal() or int(text) < 1:
        msg = f"PERTURBFM_MAX_TRAIN is {text!r}; set it to a whole number of at least 1"
        raise StoreError(msg)
    return int(text)


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
