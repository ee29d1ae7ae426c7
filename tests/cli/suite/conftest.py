"""The small suite, run once, and the same before anything has run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import VARIABLES, attempt
from tests.support.few_panels import brief
from tests.support.small_suite import declare


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the suite once, in a folder of its own, and return it."""
    path = tmp_path_factory.mktemp("suite")
    declare(path)
    with pytest.MonkeyPatch.context() as patch, brief("delta"):
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        answer = attempt("suite", "run", "t")
        assert answer.code == 0, answer.err
        (path / "said.json").write_text(json.dumps({"out": answer.out, "err": answer.err}))
    return path


@pytest.fixture(autouse=True)
def few_panels() -> Iterator[None]:
    """Score two panels, and draw no reports."""
    with brief("delta"):
        yield


@pytest.fixture
def ran(template: Path, tmp_path: Path) -> Path:
    """Return a private copy of that folder, which is the current directory."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def fresh(template: Path, tmp_path: Path) -> Path:
    """Return a folder in which nothing has run yet, but whose data and splits are there."""
    declare(tmp_path)
    for name in ("data", "splits"):
        shutil.copytree(template / name, tmp_path / name)
    return tmp_path
