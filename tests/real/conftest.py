"""Real files beside the repository, and one working folder for all tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command import VARIABLES
from tests.support.paths import REPO

DATA = REPO.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """Return a function: the path of a real file, or a skip with the reason."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.is_file():
            pytest.skip(f"no real data: {path} is absent")
        return path

    return find


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the module's working folder, which is the current directory while it is filled."""
    path = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        yield path


@pytest.fixture(autouse=True)
def inside(place: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in the module's folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(place)
