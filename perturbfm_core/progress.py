"""Progress of long work: what a stage calls with a line of text, and what a training calls after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str], None]


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
