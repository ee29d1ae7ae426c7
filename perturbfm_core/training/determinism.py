"""Deterministic torch: generators seeded by purpose, and a context in which CPU runs repeat byte for byte."""

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
    """Return a torch generator seeded for one purpose.

    Parameters
    ----------
    seed
        Base seed.
    *purpose
        Names and numbers that identify the purpose (see `seed_sequence`).
    device
        Device of the generator.
    """
    generator = torch.Generator(device)
    generator.manual_seed(derived_seeds(1, seed, *purpose)[0])
    return generator


def seed_torch(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed torch's global generators of the CPU and of `device`, but not those of other devices."""
    torch.default_generator.manual_seed(seed)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def deterministic(seed: int | None = None, device: torch.device | str = "cpu") -> Iterator[int]:
    """Confine torch's global random state and settings to this block; on the CPU it repeats byte for byte.

    Layers draw their initial weights and drop-out masks from torch's global generator, so networks should be
    built and trained inside the block. Afterwards the state of the generator and the settings are as before,
    even if an exception was raised.

    Parameters
    ----------
    seed
        Seed of torch's generators, None to continue from their current state.
    device
        On the CPU, operations without a deterministic implementation are refused. On CUDA they are allowed,
        since sparse and indexed sums have none: results there repeat up to rounding.

    Yields
    ------
    int
        Number of threads per operation; byte-for-byte repetition holds for this number only.
    """
    device = torch.device(device)
    mode = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            if device.type == "cpu":
                torch.set_deterministic_debug_mode("error")
                # Filling fresh memory costs time and matters only to code that reads memory before writing
                # it.
                memory.fill_uninitialized_memory = False
            if seed is not None:
                seed_torch(seed, device)
            yield torch.get_num_threads()
        finally:
            torch.set_deterministic_debug_mode(mode)
            memory.fill_uninitialized_memory = fill
