"""The record of one training: epochs, stopping point, curves, device."""

from __future__ import annotations

from typing import Any

from perturbfm_core.config import Frozen


class TrainingRecord(Frozen):
    """Summary of one training.

    Attributes
    ----------
    phase
        What was trained.
    epochs_planned, epochs
        Epochs planned and epochs run.
    best_epoch
        Number of epochs after which the kept weights were reached: what a refit without validation needs.
    best_score
        Validation score of the kept weights, None without validation.
    stopped_early
        Whether training stopped before the planned epochs because the validation score no longer improved.
    rows, batch_size, parameters
        Rows per epoch, rows per step, number of trained parameters.
    device, precision, compiled, threads
        What was in effect; the configuration may request more than the device supports.
    curves
        {"loss", its parts, "lr", "validation": one value per epoch}; None where it was not measured.
    seconds
        Wall time in seconds, summed over interruptions.
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

    def to_json(self) -> dict[str, Any]:
        """Return the record for ``training.json`` without `seconds`, so that equal fits give equal bytes."""
        return self.model_dump(mode="json", exclude={"seconds"})
