"""Seeds by purpose, and the context in which a CPU run repeats byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_sequence(seed: int, *purpose: str | int) -> np.random.SeedSequence:
    """Return the numpy seed sequence of a purpose: independent of every other purpose of the same seed."""
    words = [
        int.from_bytes(hashlib.sha256(f"{type(p).__name__}:{p}".encode()).digest()[:8], "little")
        for p in purpose
    ]
    return np.random.SeedSequence([seed, *words])


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed of a purpose, such as ensemble member 3, as a number below 2**31."""
    return int(seed_sequence(seed, *purpose).generate_state(1)[0] >> 1)


def derived_seeds(n: int, seed: int, *purpose: str | int) -> list[int]:
    """Return `n` seeds of a purpose below 2**63; fewer are the beginning of more."""
    words = seed_sequence(seed, *purpose).generate_state(n, np.uint64)
    return [int(word >> np.uint64(1)) for word in words]


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
