"""Resumable training state: one safetensors file, with the scalar state as JSON in its header."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from perturbfm_core.errors import ModelError
from perturbfm_core.parsing import parse_json
from perturbfm_core.store.atomic import write_atomic

CHECKPOINT_FILE = "checkpoint.safetensors"
_HEADER = "state"


@dataclass(frozen=True)
class Checkpoint:
    """Where one training keeps its state, and how often.

    One file holds tensors and JSON, so that a killed process leaves the state of one epoch, never parts of
    two.

    Attributes
    ----------
    folder
        A folder used by this training only; it may be removed at any time.
    every_seconds, every_epochs
        The state is written at the end of an epoch when either interval has passed.
    identity
        Whatever must be the same in a run and its continuation besides the configuration of the loop, such as
        the key of the model and its data.
    """

    folder: Path
    every_seconds: float = 30.0
    every_epochs: int | None = None
    identity: str = ""
    _written: list[float] = field(default_factory=lambda: [time.monotonic()], repr=False, compare=False)

    @property
    def path(self) -> Path:
        """Return the path of the checkpoint file."""
        return self.folder / CHECKPOINT_FILE

    def at(self, *names: str | int) -> Checkpoint:
        """Return the checkpoint of one part of this training, in a subfolder."""
        return replace(
            self, folder=self.folder.joinpath(*(str(n) for n in names)), _written=[time.monotonic()]
        )

    def due(self, epoch: int) -> bool:
        """Return whether the state after this epoch should be written."""
        by_epoch = self.every_epochs is not None and epoch % self.every_epochs == 0
        return by_epoch or time.monotonic() - self._written[0] >= self.every_seconds

    def write(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Write tensors and JSON state atomically, as one file."""
        on_cpu = {k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}
        header = {_HEADER: json.dumps(state, allow_nan=False)}
        write_atomic(self.path, save(on_cpu, metadata=header))
        self._written[0] = time.monotonic()

    def read(self, config_hash: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return (tensors, JSON state), or None if there is no checkpoint.

        Raises
        ------
        ModelError
            If the file is damaged, or belongs to a training of another configuration.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                state: dict[str, Any] = parse_json((file.metadata() or {})[_HEADER], "its state", ModelError)
                found = state["config_hash"]
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, ModelError) as error:
            msg = f"{self.path} is no whole checkpoint ({error}); remove it to train from the beginning"
            raise ModelError(msg) from error
        if found != config_hash:
            msg = (
                f"{self.path} belongs to a training of another configuration ({str(found)[:12]}, this one is "
                f"{config_hash[:12]}); remove it to train from the beginning, or restore the configuration"
            )
            raise ModelError(msg)
        return tensors, state


def checkpoint_at(root: Path | None, *names: str | int, **options: Any) -> Checkpoint | None:
    """Return the checkpoint of one part of a model's training, None if the model keeps none.

    Parameters
    ----------
    root
        The model's `checkpoints` folder, None without one.
    *names
        Path of the part below `root`, such as ``"member", 3``.
    **options
        Further fields of `Checkpoint`.
    """
    return None if root is None else Checkpoint(root, **options).at(*names)
