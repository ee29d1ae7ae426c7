"""The global state of torch and numpy that a training leaves as it was."""

from __future__ import annotations

import random

import numpy as np
import torch


def global_state() -> list[bytes]:
    """Return the state of every global generator."""
    return [
        torch.get_rng_state().numpy().tobytes(),
        repr(np.random.get_state()).encode(),  # noqa: NPY002
        repr(random.getstate()).encode(),
    ]
