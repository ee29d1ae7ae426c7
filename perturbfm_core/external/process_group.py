"""Process groups that never outlive whoever started them: ended whole on a timeout, an error, or this program's end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

_GRACE = 3.0
# Ends the group when the pipe that it reads is closed, which the end of this program does in any case.
_WATCH = (
    "import os,sys,signal\n"
    "signal.signal(signal.SIGINT,signal.SIG_IGN)\n"
    "if not sys.stdin.buffer.read(1):\n"
    "    try: os.killpg(int(sys.argv[1]),signal.SIGKILL)\n"
    "    except OSError: pass\n"
)


@contextlib.contextmanager
def process_group(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command in a process group of its own, which is gone when the block is left, however that is.

    Standard output and errors are one pipe.

    Parameters
    ----------
    command
        Program and arguments.
    cwd
        Its folder.
    env
        Its whole environment.
    """
    with _interrupted_by_termination():
        started = subprocess.Popen(  # noqa: S603 - the interpreter and worker of a model, as they were configured
            list(command),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watch = None
        try:
            watch = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-I", "-S", "-c", _WATCH, str(started.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            yield started
        finally:
            _end(started)
            if watch is not None:
                _dismiss(watch)


def _end(started: subprocess.Popen[bytes]) -> None:
    """End every process of the group, first politely."""
    for wanted, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        try:
            os.killpg(started.pid, wanted)
        except OSError:
            break
        until = time.monotonic() + seconds
        while time.monotonic() < until and _is_alive(started):
            time.sleep(0.02)
        if not _is_alive(started):
            break
    started.wait()
    if started.stdout is not None:
        started.stdout.close()


def _is_alive(started: subprocess.Popen[bytes]) -> bool:
    started.poll()
    try:
        os.killpg(started.pid, 0)
    except OSError:
        return False
    return True


def _dismiss(watch: subprocess.Popen[bytes]) -> None:
    """Let the watch end without doing anything: the number of the group may be another's by now."""
    # It has read the byte by its end, and whatever went wrong with it there is no group left to end.
    with contextlib.suppress(OSError):
        watch.communicate(b".")


@contextlib.contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end this program by an exception, where they would end it at once."""
    if threading.current_thread() is not threading.main_thread():
        # Handlers belong to the main thread; the watch ends the group in its stead.
        yield
        return
    ours = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for s in ours:
        signal.signal(s, _exit)
    try:
        yield
    finally:
        for s in ours:
            signal.signal(s, signal.SIG_DFL)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
