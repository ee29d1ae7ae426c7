"""Random seeds derived from a base seed and a named purpose."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_sequence(seed: int, *purpose: str | int) -> np.random.SeedSequence:
    """Return the numpy seed sequence of a purpose, independent of every other purpose of the same seed."""
    # A hash of each name, with its type, so that 1 and "1" are different purposes.
    words = [
        int.from_bytes(hashlib.sha256(f"{type(p).__name__}:{p}".encode()).digest()[:8], "little")
        for p in purpose
    ]
    return np.random.SeedSequence([seed, *words])


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed of a purpose, such as ensemble member 3, as an integer below 2**31."""
    return int(seed_sequence(seed, *purpose).generate_state(1)[0] >> 1)


def derived_seeds(n: int, seed: int, *purpose: str | int) -> list[int]:
    """Return `n` seeds of a purpose, integers below 2**63; the first seeds do not depend on `n`.

    Parameters
    ----------
    n
        Number of seeds.
    seed
        Base seed.
    *purpose
        Names and numbers that identify the purpose.
    """
    words = seed_sequence(seed, *purpose).generate_state(n, np.uint64)
    return [int(word >> np.uint64(1)) for word in words]
