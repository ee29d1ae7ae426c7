"""Seeds by purpose."""

from __future__ import annotations

import hashlib

import numpy as np


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
