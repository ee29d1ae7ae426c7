"""A newcomer's surroundings, and a small screen with a split, a run and a leaderboard."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.command import VARIABLES, Work, perturbfm


@pytest.fixture(autouse=True)
def plain_environment(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as a newcomer does: no variable set, everything in the current (temporary) directory."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Make the folder of `Work` once."""
    path = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        size = ("--n-obs", 200, "--n-genes", 50, "--n-contexts", 3, "--n-perts", 5)
        perturbfm("data", "make-synth", "--out", "D", *size)
        held = ("--spec", "context_ood", "--holdout-context", "C0")
        split = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
        run = perturbfm("train", "global_mean", "--data", "D", "--split", split).values["run_id"]
        perturbfm("leaderboard", "refresh")
    return Work(path, split, run)


@pytest.fixture
def work(template: Work, tmp_path: Path) -> Work:
    """Return a private copy of that folder, which is the current directory."""
    shutil.copytree(template.path, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Work(tmp_path, template.split, template.run)
