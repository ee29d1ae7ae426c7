"""Runner of an external model's worker: one process group, its log, its progress, and one line if it fails."""

from __future__ import annotations

import errno
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from perturbfm_core.data.npz import read_npz
from perturbfm_core.errors import ExternalError, PredictionError
from perturbfm_core.external.network import without_network
from perturbfm_core.external.process_group import process_group
from perturbfm_core.external.raw import ARRAYS_FILE, ERROR_FILE, META_FILE
from perturbfm_core.external.sandbox import worker_variables
from perturbfm_core.parsing import read_json_file
from perturbfm_core.progress import Progress, quiet

LOG_FILE = "worker.log"
_PREFIX = "progress:"
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Bytes of the end of a log that are searched for its last line.
_TAIL = 65536


@dataclass(frozen=True)
class WorkerCall:
    """One call of a worker: ``PYTHON WORKER VIEW OUT``.

    Attributes
    ----------
    name
        The model, for messages.
    python, worker
        Interpreter and script.
    view
        Folder with the export and ``request.json``, which is read.
    work
        Folder of its own, which is emptied: its home, its log, and ``out``, which it writes into.
    threads
        Threads of numeric libraries.
    timeout
        Seconds after which it is ended, None without a limit.
    variables
        Further environment variables.
    """

    name: str
    python: Path
    worker: Path
    view: Path
    work: Path
    threads: int = 1
    timeout: float | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """Return the folder that the worker writes into."""
        return self.work / "out"

    @property
    def log(self) -> Path:
        """Return the file of what the worker prints."""
        return self.work / LOG_FILE


def run_worker(call: WorkerCall, tell: Progress = quiet) -> Path:
    """Run a worker to its end and return the folder with its output.

    Raises
    ------
    ExternalError
        If the interpreter does not start, the worker fails, takes too long, or ends without ``raw.npz`` and ``raw.json``, or
        with half of the former.
    """
    if not call.worker.is_file():
        msg = f"the worker of {call.name} is absent: {call.worker}; give the path of a Python file"
        raise ExternalError(msg)
    shutil.rmtree(call.work, ignore_errors=True)
    call.out.mkdir(parents=True)
    variables = worker_variables(call.python, call.work.absolute(), call.threads, call.variables)
    command = [
        str(call.python.absolute()),
        str(call.worker.absolute()),
        str(call.view.absolute()),
        str(call.out.absolute()),
    ]
    try:
        _require_program(call.python)
        command = without_network(command)
        with call.log.open("wb") as log, process_group(command, cwd=call.work, env=variables) as started:
            in_time = _follow(started, log, call.timeout, tell)
        if not in_time:
            msg = f"worker of {call.name} took longer than {call.timeout:g} s and was ended; its log: {call.log}"
            raise ExternalError(msg)
        _require_output(call, started.returncode)
    except OSError as error:
        msg = (
            f"{call.python} does not start ({error.strerror or error}); run `perturbfm external env create "
            f"{call.name}`, or name an environment of your own with --env PATH"
        )
        raise ExternalError(msg) from error
    finally:
        shutil.rmtree(variables["TMPDIR"], ignore_errors=True)
    return call.out


def _require_program(path: Path) -> None:
    """Raise what starting a program would, as another program starts it."""
    number = errno.ENOENT if not path.is_file() else 0 if os.access(path, os.X_OK) else errno.EACCES
    if number:
        raise OSError(number, os.strerror(number), str(path))


def _follow(started: subprocess.Popen[bytes], log: IO[bytes], timeout: float | None, tell: Progress) -> bool:
    """Copy what a worker prints into its log until it ends; return False if its time is over."""
    until = None if timeout is None else time.monotonic() + timeout
    output: Any = started.stdout
    pipe, rest = output.fileno(), b""
    os.set_blocking(pipe, False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        open_ = True
        while open_ or started.poll() is None:
            if until is not None and time.monotonic() >= until:
                return False
            if not open_:
                time.sleep(0.02)
                continue
            ready = selector.select(0.2)
            # A process that it left behind may keep the pipe open: the worker itself has ended.
            ended = started.poll() is not None
            chunk = os.read(pipe, 65536) if ready else None
            if chunk:
                log.write(chunk)
                log.flush()
                rest = _shown(rest + chunk, tell)
            elif chunk == b"" or ended:
                open_ = False
    _shown(rest + b"\n", tell)
    return True


def _shown(text: bytes, tell: Progress) -> bytes:
    """Pass on the whole lines that are progress, and return what is left of the last."""
    *lines, rest = text.replace(b"\r", b"\n").split(b"\n")
    for line in lines:
        words = line.decode("utf-8", "replace").strip()
        if words.startswith(_PREFIX):
            tell(_printable(words.removeprefix(_PREFIX))[:300])
    return rest[-_TAIL:]


def _require_output(call: WorkerCall, code: int) -> None:
    """Refuse the output of a worker that failed, or that ended well and did not write all of it, which would be kept."""
    said = _error_line(call.out / ERROR_FILE)
    if said is None and code == 0 and (call.out / ERROR_FILE).exists():
        said = f"it wrote {ERROR_FILE}, which has no line of an error"
    absent = next((n for n in (ARRAYS_FILE, META_FILE) if not (call.out / n).is_file()), None)
    if code == 0 and said is None and absent is None:
        read_npz(call.out / ARRAYS_FILE, ExternalError)
        return
    if said is None and code == 0:
        said = f"it ended with exit code 0 and wrote no {absent}"
    elif said is None:
        ended = f"exit code {code}" if code > 0 else f"signal {_signal(-code)}"
        last = _last_line(call.log)
        said = f"{last} ({ended})" if last else f"it ended with {ended} and printed nothing"
    msg = f"worker of {call.name} failed: {said}; its log: {call.log}"
    raise ExternalError(msg)


def _error_line(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        said = read_json_file(path, PredictionError)
    except PredictionError:
        return None
    text = said.get("error") if isinstance(said, dict) else None
    return " ".join(text.split())[:1000] if isinstance(text, str) and text.strip() else None


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - _TAIL, 0))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    shown = (_printable(line)[:500] for line in reversed(lines))
    return next((line for line in shown if line), "")


def _printable(line: str) -> str:
    """Return a line without colours and other characters that steer a terminal."""
    return "".join(c for c in _COLOUR.sub("", line) if c.isprintable()).strip()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
