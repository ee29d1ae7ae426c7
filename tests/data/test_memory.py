"""Memory that was freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perturbfm_core.data import memory
from tests.support.paths import REPO

# Arrays of 1 MB between ones that stay: the C library keeps their memory.
HOLES = """
import numpy as np
from perturbfm_core.data import memory
memory._FROM = 0
kept, freed = [], []
for _ in range(150):
    freed.append(np.ones({size}, dtype=np.uint8))
    kept.append(np.ones(5000, dtype=np.uint8))
large = np.ones(31 << 20, dtype=np.uint8)
del large
for _ in range(150):
    freed.append(np.ones({size}, dtype=np.uint8))
    kept.append(np.ones(5000, dtype=np.uint8))
freed.clear()
before = memory._resident()
memory.give_back()
print((before - memory._resident()) >> 20)
"""


@pytest.mark.skipif(memory._trim() is None, reason="this C library has no malloc_trim")
@pytest.mark.parametrize("size", [400_000, 1_000_000, 3_000_000])
def test_freed_memory_between_arrays_in_use_is_given_back(size: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLES.format(size=size)], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) >= 0.8 * 150 * size / 2**20


@pytest.mark.parametrize(("resident", "calls"), [(0, 0), (memory._FROM, 0), (memory._FROM + 1, 1)])
def test_small_processes_keep_theirs(monkeypatch: pytest.MonkeyPatch, resident: int, calls: int) -> None:
    made: list[int] = []
    monkeypatch.setattr(memory, "_resident", lambda: resident)
    monkeypatch.setattr(memory, "_trim", lambda: made.append)
    memory.give_back()
    assert len(made) == calls


def test_a_c_library_without_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_resident", lambda: 1 << 40)
    monkeypatch.setattr(memory, "_trim", lambda: None)
    memory.give_back()
    monkeypatch.undo()
    memory._trim.cache_clear()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert memory._trim() is None
    memory._trim.cache_clear()
