"""A suite of six cells that is ready to be submitted, and stand-ins of the commands of Slurm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import VARIABLES, perturbfm
from tests.support.fake_slurm import FakeSlurm
from tests.support.few_panels import brief
from tests.support.small_suite import declare


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make data and splits of a suite of six cells, and return the folder."""
    path = tmp_path_factory.mktemp("submit")
    declare(path, models=["control_only", "global_mean"])
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        FakeSlurm(path / "fake", patch)
        perturbfm("suite", "submit", "t", "--on", "slurm", "--json")
    shutil.rmtree(path / "fake")
    shutil.rmtree(path / "runs/.jobs")
    return path


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    """Return a private copy of that folder, which is the current directory."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def slurm(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put the stand-ins on PATH."""
    return FakeSlurm(home / "fake", monkeypatch)


@pytest.fixture
def quick() -> Iterator[None]:
    """Score two panels, and draw no reports."""
    with brief("delta"):
        yield
