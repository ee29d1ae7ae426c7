"""The record of one training: epochs, stopping point, curves, device."""

from __future__ import annotations

from typing import Any

from perturbfm_core.config import Frozen


class TrainingRecord(Frozen):
    """How one training went.

    Attributes
    ----------
    phase
        What was trained.
    epochs_planned, epochs
        Epochs asked for and run.
    best_epoch
        Epochs after which the kept weights were reached: what a refit without validation needs.
    best_score
        Validation score of the kept weights, None without validation.
    stopped_early
        Whether patience ran out before the planned epochs.
    rows, batch_size, parameters
        Rows per epoch, rows per step, trained numbers.
    device, precision, compiled, threads
        What was in effect: the configuration may allow more than the device has.
    curves
        {"loss", its parts, "lr", "validation": one value per epoch}; None where it was not measured.
    seconds
        Wall time, over all interruptions.
    """

    phase: str
    epochs_planned: int
    epochs: int
    best_epoch: int
    best_score: float | None
    stopped_early: bool
    rows: int
    batch_size: int
    parameters: int
    device: str
    precision: str
    compiled: bool
    threads: int
    curves: dict[str, list[float | None]]
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Return training rows per second of wall time, validation included."""
        return self.rows * self.epochs / max(self.seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """Return the record for ``training.json``, without `seconds`: the same fit leaves the same bytes."""
        return self.model_dump(mode="json", exclude={"seconds"})
