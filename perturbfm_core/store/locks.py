"""Locks between processes, whose files name who holds them: an ended process holds none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from perturbfm_core.errors import StoreError
from perturbfm_core.progress import WAITING, Progress
from perturbfm_core.store.disk import writing
from perturbfm_core.store.owner import host_name

_POLL_S = 0.05
# Shorter waits are not worth a line.
_PATIENCE_S = 1.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as its file says.

    Attributes
    ----------
    what
        What is being done, such as ``run 1a2b3c4_ridge_5d6e7f80``.
    host, pid
        Where.
    since
        UTC time.
    """

    what: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.what} since {self.since} (process {self.pid} on {self.host})"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_holder(path: Path) -> Holder | None:
    """Return who holds a lock, None if its file does not say."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Holder(str(fields["what"]), str(fields["host"]), int(fields["pid"]), str(fields["since"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def command_line() -> str:
    """Return what this process was asked to do, in a few words."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:3]] if sys.argv and sys.argv[0] else ["python"]
    return " ".join(words)[:80]


def to_console(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def _take(handle: IO[bytes], path: Path, what: str) -> bool:
    """Take the lock of an open file, and write into it who did; return False if it is taken.

    Parameters
    ----------
    handle, path
        The file.
    what
        What the lock is held for.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        msg = f"{path.parent} has no file locks ({error.strerror}); put PERTURBFM_HOME on a file system that has"
        raise StoreError(msg) from error
    # A lock holds without a name as well, on a full disk for instance.
    with contextlib.suppress(OSError):
        holder = Holder(what or command_line(), host_name(), os.getpid(), _now())
        handle.truncate(0)
        handle.write(json.dumps(asdict(holder)).encode())
        handle.flush()
    return True


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with writing(path, 200):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Appending, so that whoever opens it to ask leaves what is written in it. Unbuffered: nothing is left to
        # write when it is closed.
        handle = path.open("ab", buffering=0)
    with handle:
        yield handle


@contextlib.contextmanager
def _held(handle: IO[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            handle.truncate(0)
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextlib.contextmanager
def file_lock(
    path: Path, *, wait: bool = True, what: str = "", tell: Progress = to_console
) -> Iterator[bool]:
    """Hold an exclusive advisory lock on `path`; yields False at once if it is taken and `wait` is off.

    Parameters
    ----------
    path
        File of the lock.
    wait
        Whether to wait until it is free.
    what
        What it is held for, shown to those who wait (default: the command line).
    tell
        Called with a line that names the holder if that takes more than a second, and when it changes.

    Raises
    ------
    StoreError
        If the file cannot be written, or its file system has no locks.
    """
    with _open(path) as handle:
        if not _take(handle, path, what):
            if not wait:
                yield False
                return
            waiting = Waiting([path], f"lock {path.stem or path.name}", tell, _PATIENCE_S)
            while not _take(handle, path, what):
                waiting.again()
        with _held(handle):
            yield True


@contextlib.contextmanager
def one_of(paths: Sequence[Path], what: str, named: str, tell: Progress) -> Iterator[None]:
    """Hold one of some locks, waiting until one is free.

    Parameters
    ----------
    paths
        Files of the locks.
    what
        What it is held for, shown to those who wait.
    named
        What one of them is called.
    tell
        Called with a line that names the holders if all are taken, and again when they change.
    """
    waiting = Waiting(paths, named, tell, 0.0)
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(_open(path)) for path in paths]
        while True:
            for path, handle in zip(paths, handles, strict=True):
                if _take(handle, path, what):
                    with _held(handle):
                        yield
                    return
            waiting.again()


class Waiting:
    """A wait for one of some locks, which says whom it waits for.

    Parameters
    ----------
    paths
        Files of the locks.
    named
        What one of them is called.
    tell
        Called with the line.
    patience
        Seconds before the first line.
    """

    def __init__(self, paths: Sequence[Path], named: str, tell: Progress, patience: float) -> None:
        self._paths, self._named, self._tell = paths, named, tell
        self._from = time.monotonic() + patience
        self._shown: list[Holder | None] | None = None

    def again(self) -> None:
        """Say whom this waits for, if that is news, and pause."""
        if time.monotonic() >= self._from:
            holders = [read_holder(path) for path in self._paths]
            # A holder that has just come has not written its name yet.
            news = self._shown is None or (None not in holders and holders != self._shown)
            if news:
                self._shown = holders
                self._tell(self._line(holders))
        time.sleep(_POLL_S)

    def _line(self, holders: Sequence[Holder | None]) -> str:
        known = [str(h) for h in holders if h is not None] or ["another process"]
        return f"{WAITING}a {self._named} held by {' and by '.join(known)}"
