"""Several trials at once, each in a process of its own that has opened the data itself."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.errors import ModelError
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.tuning.validation import FoldScore, Validation

Score = Callable[[dict[str, Any], int], FoldScore]


@dataclass(frozen=True)
class Job:
    """What a worker needs to score configurations as the caller would."""

    home: Path
    split_dir: Path
    split: str
    data: Path | None
    entry: ModelEntry
    seed: int


_validation: Validation | None = None


def _start(job: Job) -> None:
    global _validation
    # An interrupt ends a worker at once and silently; the caller says what happened.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store = ArtifactStore(job.home, job.split_dir)
    split = SplitFolder(store.split_dir).load(job.split)
    _validation = Validation(store, dataset_of(store, split, job.data), split, job.entry, job.seed)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even if it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(params: dict[str, Any], fold: int) -> FoldScore:
    if _validation is None:
        msg = "a worker scores nothing before it was started with a job"
        raise ModelError(msg)
    return _validation.score(params, fold)


@contextlib.contextmanager
def pool(job: Job, n: int) -> Iterator[Score]:
    """Start `n` worker processes; yields a function that scores in one of them and may be called from threads."""
    # A fork would copy the state of numerical libraries' threads, which does not survive it.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(n, mp_context=context, initializer=_start, initargs=(job,))

    def score(params: dict[str, Any], fold: int) -> FoldScore:
        try:
            return executor.submit(_score, params, fold).result()
        except BrokenProcessPool as error:
            msg = "a worker process was ended from outside (out of memory?); go on with fewer --jobs"
            raise WorkerLostError(msg) from error

    try:
        yield score
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class WorkerLostError(ModelError):
    """A worker process was ended from outside; not the fault of what it was fitting."""
