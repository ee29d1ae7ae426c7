"""Bounds and scales of splits, computed once per process of tests and copied into every later store that asks for them.

Their keys are of data, split and code, so that what is copied is what would be computed.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from perturbfm_core.store.artifacts import ArtifactStore

# The store as it is, for tests of how bounds come about.
PLAIN = ArtifactStore.put_object
# What belongs to a split alone; objects of fits, predictions and scores are made by every test itself.
FILES = ({"bounds.json"}, {"bounds.json", "conditions.npz"}, {"conditions.npz"}, {"scale.json"})


def keep_bounds(patch: pytest.MonkeyPatch) -> None:
    """Let stores of this process copy bounds and scales that one of them computed before.

    Parameters
    ----------
    patch
        Undoes it.
    """
    kept: dict[str, dict[str, bytes]] = {}
    # Of an object, those that its computation put into the store as well.
    parts: dict[str, list[str]] = {}
    # By thread.
    computing: dict[int, list[str]] = defaultdict(list)

    def put_object(store: ArtifactStore, key: str, fill: Callable[[Path], None]) -> Path:
        under_way = computing[threading.get_ident()]
        for made_for in under_way:
            parts[made_for].append(key)

        def copied_or_filled(folder: Path) -> None:
            if key in kept:
                for part in parts[key]:
                    put_object(store, part, fill)
                for name, data in kept[key].items():
                    (folder / name).write_bytes(data)
                return
            under_way.append(key)
            parts[key] = []
            try:
                fill(folder)
            finally:
                under_way.pop()
            files = {p.name: p for p in folder.iterdir()}
            if set(files) in FILES and set(parts[key]) <= set(kept):
                kept[key] = {name: path.read_bytes() for name, path in files.items()}

        return PLAIN(store, key, copied_or_filled)

    patch.setattr(ArtifactStore, "put_object", put_object)
