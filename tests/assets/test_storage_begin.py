"""The storage of Dagster where several processes begin at once on a new home."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from perturbfm_assets import storage


def test_files_are_made_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second would make the tables that the first has just made, and fail."""
    inside: list[int] = []
    seen: list[int] = []

    def make(*_: object) -> None:
        inside.append(1)
        seen.append(len(inside))
        time.sleep(0.05)
        inside.pop()

    monkeypatch.setattr(DagsterSqliteStorage, "__init__", make)
    monkeypatch.setattr(storage, "KeptEnginesEventLog", make)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(storage.LocalStorage, [str(tmp_path / "new")] * 3))
    assert seen == [1] * 6
