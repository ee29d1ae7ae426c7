"""Progress of long work: what a stage calls with a line of text, and what a training calls after every epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

Progress = Callable[[str], None]


# How the lines begin that a user must see even where progress is not shown.
WAITING = "waiting for "
# How the lines begin that a user must see once, whether or not progress is shown.
WARNING = "warning: "
# How the line begins that names a run that was found instead of made.
FOUND = "found run "


def quiet(_: str) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch.

    Attributes
    ----------
    phase
        What is being trained.
    epoch, epochs
        Number of this epoch, from 1, and of all planned ones.
    loss
        Mean loss over the rows.
    score
        Validation score, None where there was no validation.
    """

    phase: str
    epoch: int
    epochs: int
    loss: float
    score: float | None = None


OnEpoch = Callable[[EpochReport], None]


def epoch_listener(progress: object) -> OnEpoch | None:
    """Return what a progress display does with epochs (its attribute ``epoch``), None if it shows text only."""
    return getattr(progress, "epoch", None)


def run_of(progress: object, name: str) -> str:
    """Return the run that work belongs to: the scheduler's, if a progress has one (its attribute ``run``), else `name`."""
    return f"run {getattr(progress, 'run', None) or name}"


def worker_session(progress: object) -> contextlib.AbstractContextManager[Mapping[str, str]]:
    """Return what a worker process runs within (attribute ``worker_session``): it gives variables that lead to its listener."""
    opened = getattr(progress, "worker_session", None)
    return contextlib.nullcontext({}) if opened is None else opened()


class FoundRuns:
    """Progress passed on to a display, with the ids of the runs that were found instead of made.

    Parameters
    ----------
    tell
        What progress is passed on to.
    """

    def __init__(self, tell: Progress) -> None:
        self._tell = tell
        self.epoch = epoch_listener(tell)
        self.worker_session = partial(worker_session, tell)
        self.ids: set[str] = set()

    def __call__(self, text: str) -> None:
        """Pass a line of progress on."""
        if text.startswith(FOUND):
            self.ids.add(text.removeprefix(FOUND))
        self._tell(text)
