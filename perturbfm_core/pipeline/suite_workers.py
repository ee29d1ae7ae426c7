"""Worker processes that run the cells of a suite side by side, with a share of the cores each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from perturbfm_core.errors import DiskError
from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.pipeline.suite_cell import run_cell
from perturbfm_core.pipeline.suite_failures import Failure, failure_of
from perturbfm_core.progress import WAITING, Progress
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.machine import cores

# What a worker does with a cell: (store, cell, whether again, what shows progress) -> its run.
Work = Callable[[ArtifactStore, SuiteCell, bool, Progress], Path]


# Seconds that a process has to end by itself.
_GRACE_S = 5.0


@dataclass(frozen=True)
class Lost:
    """The end of a worker process that nobody here asked for."""

    how: str


@dataclass(frozen=True)
class _Settings:
    """What a worker runs with."""

    home: Path
    split_dir: Path
    jobs: int
    threads: int
    again: bool
    work: Work


class _Worker:
    """A process that takes one cell at a time."""

    def __init__(self, settings: _Settings) -> None:
        # Not forked: the threads of numerical libraries do not survive a fork, while their locks are copied.
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, settings), daemon=True)
        self.process.start()
        other.close()
        self.cell: SuiteCell | None = None

    def take(self, cell: SuiteCell) -> None:
        """Send a cell to the process."""
        self.cell = cell
        self.connection.send(cell)

    def end(self) -> None:
        """End the process at once; what it was writing is swept by the next writer."""
        self.process.terminate()
        self.process.join(_GRACE_S)
        # Where whoever started this program ignores SIGTERM, so may its processes.
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()


def run_in_processes(
    store: ArtifactStore, cells: Sequence[SuiteCell], jobs: int, again: bool, work: Work = run_cell
) -> Iterator[tuple[SuiteCell, str | Path | Failure | Lost | None]]:
    """Run cells in worker processes; yield (cell, line of progress, its run, or why there is none).

    A cell that begins is yielded with None. Fits take turns as everywhere: `PERTURBFM_MAX_TRAIN` of them run at once,
    as many as there are processes where it is not set.

    Parameters
    ----------
    store
        Where artifacts lie.
    cells
        What is to be run.
    jobs
        Number of processes.
    again
        Whether new runs are published where there are some.
    work
        What is done with each cell; a function of a module, as it crosses to another process.
    """
    jobs = min(jobs, len(cells))
    settings = _Settings(store.home, store.split_dir, jobs, max(1, cores() // jobs), again, work)
    todo, workers = deque(cells), [_Worker(settings) for _ in range(jobs)]
    try:
        for worker in workers:
            worker.take(todo.popleft())
            yield _cell(worker), None
        while busy := {w.connection: w for w in workers if w.cell is not None}:
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                cell = _cell(worker)
                said = _receive(worker)
                yield cell, said
                if isinstance(said, str):
                    continue
                worker.cell = None
                if isinstance(said, Lost) and todo:
                    workers[workers.index(worker)] = worker = _Worker(settings)
                if todo:
                    worker.take(todo.popleft())
                    yield _cell(worker), None
    finally:
        for worker in workers:
            worker.end()


def _cell(worker: _Worker) -> SuiteCell:
    if worker.cell is None:
        msg = "a worker without a cell has nothing to say"
        raise RuntimeError(msg)
    return worker.cell


def _receive(worker: _Worker) -> str | Path | Failure | Lost:
    """Return what a worker says of its cell.

    Raises
    ------
    DiskError
        If the disk refused it.
    """
    try:
        said: Any = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        return Lost(f"signal {-code}" if code < 0 else f"exit code {code}")
    if isinstance(said, BaseException):
        raise said
    result: str | Path | Failure = said
    return result


def _work(connection: Connection, settings: _Settings) -> None:
    """Run the cells that come, until the calling process ends."""
    # An interrupt of the terminal reaches every process: the calling one decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # How it is ended from here, even if that was ignored where this program was started.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("PERTURBFM_MAX_TRAIN", str(settings.jobs))
    store = ArtifactStore(settings.home, settings.split_dir)

    def tell(text: str) -> None:
        if not text.startswith(WAITING):
            connection.send(text)

    while True:
        cell: SuiteCell = connection.recv()
        try:
            # A fit has a limit of its own; this one is for what comes before and after it.
            with threadpool_limits(limits=settings.threads):
                run = settings.work(store, cell, settings.again, tell)
        except DiskError as error:
            connection.send(error)
        except Exception as error:  # noqa: BLE001 - a fault of one cell is reported, whatever it is
            connection.send(failure_of(error))
        else:
            connection.send(run)


def _end_with_parent() -> None:
    """End this process when its parent process ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
