"""The artifact store: the only place where paths of data sets, runs, objects and locks are built."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.progress import Progress
from perturbfm_core.store.atomic import Staging, sweep_staging
from perturbfm_core.store.disk import writing
from perturbfm_core.store.locks import file_lock, one_of, to_console
from perturbfm_core.store.machine import max_train
from perturbfm_core.store.owner import host_name, require_local

RUN_ID_PATTERN = re.compile(r"^\d{8}-\d{6}_[0-9a-f]{7}_[a-z0-9][a-z0-9_.-]*_[0-9a-f]{8}(-[0-9a-f]{4})?$")


@dataclass(frozen=True)
class Artifact:
    """What one stage of the pipeline made, or found made already: an immutable folder of the store.

    Attributes
    ----------
    key, path
        Its identity and directory under ``runs/.objects``.
    reused
        Whether it was there already.
    """

    key: str
    path: Path
    reused: bool


class ArtifactStore:
    """Where artifacts lie.

    Parameters
    ----------
    home
        Root of ``data/`` and ``runs/``; default ``PERTURBFM_HOME`` or the current directory.
    split_dir
        Folder of the frozen splits; default ``PERTURBFM_SPLIT_DIR`` or ``./splits``.
    tell
        Called with a line that names the holder of what is waited for, by default on standard error.

    Raises
    ------
    StoreError
        If one of them is an address such as ``s3://...``.
    """

    def __init__(
        self,
        home: Path | str | None = None,
        split_dir: Path | str | None = None,
        tell: Progress = to_console,
    ) -> None:
        require_local(home or os.environ.get("PERTURBFM_HOME") or ".", "PERTURBFM_HOME")
        require_local(split_dir or os.environ.get("PERTURBFM_SPLIT_DIR") or ".", "PERTURBFM_SPLIT_DIR")
        # A path that is given stays that of one folder, wherever its process goes.
        self.home = Path(home).absolute() if home else Path(os.environ.get("PERTURBFM_HOME") or ".")
        self.split_dir = (
            Path(split_dir).absolute()
            if split_dir
            else Path(os.environ.get("PERTURBFM_SPLIT_DIR") or "splits")
        )
        self.tell = tell
        self.data = self.home / "data"
        self.downloads = self.home / "downloads"
        self.runs = self.home / "runs"
        self.objects = self.runs / ".objects"
        self.staging_root = self.runs / ".staging"
        self.locks = self.runs / ".locks"
        self.external_work = self.runs / ".external"
        self.leaderboard = self.runs / "leaderboard.duckdb"
        self.leaderboard_page = self.runs / "leaderboard.html"
        self.studies = self.runs / ".studies"
        self.sweeps = self.runs / ".sweeps"
        self.failures = self.runs / ".failures"
        self.scorecards = self.runs / "scorecards"
        self.jobs = self.runs / ".jobs"

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

    def find(self, key: str) -> Artifact | None:
        """Return the immutable object with this key, None if nobody made it yet."""
        path = self.object(key)
        return Artifact(key, path, reused=True) if _in_use(path) else None

    def checkpoints(self, key: str) -> Path:
        """Return the directory where the training of the object `key` keeps its state until it is published."""
        return self.runs / ".checkpoints" / key

    def put_object(self, key: str, fill: Callable[[Path], None]) -> Path:
        """Return the object `key`, made by `fill(directory)` if it is not there yet.

        Two racing writers both succeed; the first to publish wins.
        """
        path = self.object(key)
        if _in_use(path):
            return path
        with self.stage() as staging, writing(path, staged=staging.path):
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
        """Return an unused run id ``<UTC>_<split7>_<entry>_<config8>[-<rand4>]``.

        Parameters
        ----------
        split_hash, model, config_hash
            Hash of the split, name of the entry, hash of the configuration with its seed.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        base = run_id = f"{stamp}_{split_hash[:7]}_{model}_{config_hash[:8]}"
        while self.run(run_id).exists():
            run_id = f"{base}-{uuid.uuid4().hex[:4]}"
        return run_id

    def run_like(self) -> list[Path]:
        """Return the directories that are runs or were meant to be, oldest first: by their name or their record."""
        return sorted(
            path
            for path in self.runs.glob("*_*_*")
            if path.is_dir() and (RUN_ID_PATTERN.match(path.name) or (path / schema.CONFIG_FILE).is_file())
        )

    def run_dirs(self) -> list[Path]:
        """Return the directories of all complete runs, oldest first."""
        return sorted(path for path in self.runs.glob("*_*_*") if self.is_complete(path))

    def is_complete(self, path: Path) -> bool:
        """Return whether a directory has every file of a run."""
        return path.is_dir() and all((path / name).is_file() for name in schema.RUN_FILES)

    def find_run(self, name: str) -> Path:
        """Return a run by path, id or unique prefix of its id.

        Raises
        ------
        StoreError
            If no run or several match.
        """
        direct = Path(name)
        if (direct / schema.CONFIG_FILE).is_file():
            return direct
        if RUN_ID_PATTERN.match(name) and self.is_complete(self.run(name)):
            return self.run(name)
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

    def lock(
        self, name: str, *, wait: bool = True, what: str = "", tell: Progress | None = None
    ) -> contextlib.AbstractContextManager[bool]:
        """Return a lock shared by every process on this store; without `wait` it gives False if it is taken.

        Parameters
        ----------
        name
            Name of the lock.
        wait
            Whether to wait until it is free.
        what
            What it is held for, shown to those who wait (default: the command line).
        tell
            Called with a line that names the holder, by default the store's.
        """
        return file_lock(self.locks / f"{name}.lock", wait=wait, what=what, tell=tell or self.tell)

    @contextlib.contextmanager
    def training_slot(self, what: str = "", tell: Progress | None = None) -> Iterator[int]:
        """Hold one of this host's ``PERTURBFM_MAX_TRAIN`` (default 1) training slots; yields how many there are.

        The slots are those of one host, as cores and memory are. An ended process holds none, however it ended.

        Parameters
        ----------
        what
            What trains, shown to those who wait (default: the command line).
        tell
            Called with a line that names the holders if all slots are taken, by default the store's.
        """
        slots = max_train()
        files = [self.locks / f"train-{host_name()}-{i}.lock" for i in range(slots)]
        with one_of(files, what, "training slot", tell or self.tell):
            yield slots


def _in_use(path: Path) -> bool:
    """Return whether an object is there, and date it anew: a run that is being made may need it (see `run_removal`)."""
    if not path.is_dir():
        return False
    # A store that others own or that is read-only is read as it is. The kernel's own "now" may lag by a tick of its
    # clock, and fall before the look of a collection that it is to be compared with.
    now = time.time_ns()
    with contextlib.suppress(OSError):
        os.utime(path, ns=(now, now))
    return True
