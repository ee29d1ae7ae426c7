"""Worker processes for parallel trials, each with its own copy of the data."""

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
from perturbfm_core.errors import ConfigError, ModelError
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.machine import max_train
from perturbfm_core.tuning.validation import FoldScore, Validation

Score = Callable[[dict[str, Any], int], FoldScore]


@dataclass(frozen=True)
class Job:
    """Everything that a worker process needs to score configurations like the calling process."""

    home: Path
    split_dir: Path
    split: str
    data: Path | None
    entry: ModelEntry
    seed: int


_validation: Validation | None = None


def _start(job: Job) -> None:
    global _validation
    # An interrupt ends a worker at once and without a message; the calling process reports it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store = ArtifactStore(job.home, job.split_dir)
    split = SplitFolder(store.split_dir).load(job.split)
    _validation = Validation(store, dataset_of(store, split, job.data), split, job.entry, job.seed)


def _end_with_parent() -> None:
    """End this process when its parent process ends, even if that was killed."""
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
    """Start `n` worker processes and yield a thread-safe function that scores in one of them.

    Raises
    ------
    WorkerLostError
        From that function, if a worker process was ended from outside.
    """
    # Not forked: the threads of numerical libraries do not survive a fork, while their locks are copied.
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


@contextlib.contextmanager
def scorer(validation: Validation, job: Job, jobs: int) -> Iterator[Score]:
    """Yield a function that scores configurations: in this process, or in one of several worker processes.

    Parameters
    ----------
    validation
        Validation of the split.
    job
        What worker processes need to make the same.
    jobs
        Number of configurations at once.
    """
    if jobs <= 1:
        yield validation.score
    else:
        with pool(job, jobs) as score:
            yield score


def check_jobs(jobs: int) -> None:
    """Refuse more configurations at once than the machine has training slots.

    Raises
    ------
    ConfigError
        Naming the variable that sets their number.
    """
    if jobs > max_train():
        msg = f"--jobs {jobs} needs as many training slots, there are {max_train()}; set PERTURBFM_MAX_TRAIN={jobs}"
        raise ConfigError(msg)


class WorkerLostError(ModelError):
    """A worker process was ended from outside, which is no failure of the configuration it was fitting."""
