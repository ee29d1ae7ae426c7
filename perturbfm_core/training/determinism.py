"""Seeds by purpose, and the context in which a CPU run repeats byte for byte."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from perturbfm_core.training.seeds import derived_seed, derived_seeds, seed_sequence

__all__ = [
    "derived_seed",
    "derived_seeds",
    "deterministic",
    "seed_sequence",
    "seed_torch",
    "torch_generator",
]


def torch_generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator of a purpose."""
    generator = torch.Generator(device)
    generator.manual_seed(derived_seeds(1, seed, *purpose)[0])
    return generator


def seed_torch(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed torch's global generators of the CPU and of `device`; those of other devices keep their state."""
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def deterministic(seed: int | None = None, device: torch.device | str = "cpu") -> Iterator[int]:
    """Keep torch's global state to this block; on the CPU, the same block gives the same bytes.

    Layers initialise and drop out from torch's global generator: build and train them inside. State of the
    generator and settings are as before afterwards, whatever is raised.

    Parameters
    ----------
    seed
        Seeds torch's generators, None to go on from their state.
    device
        On the CPU, operations without a repeatable form are refused. On CUDA they are allowed, since sparse
        and indexed sums have none: results there repeat up to rounding.

    Yields
    ------
    int
        Threads of one operation; the bytes hold for this number.
    """
    device = torch.device(device)
    mode = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if device.type == "cpu":
                torch.set_deterministic_debug_mode("error")
                # Only fresh memory that is read before it is written would change, at the price of writing it.
                memory.fill_uninitialized_memory = False
            if seed is not None:
                seed_torch(seed, device)
            yield torch.get_num_threads()
        finally:
            torch.set_deterministic_debug_mode(mode)
            memory.fill_uninitialized_memory = fill
