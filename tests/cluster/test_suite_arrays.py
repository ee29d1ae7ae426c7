"""A suite of 24 cells as six array tasks of a real Slurm, one of them cancelled and submitted again."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perturbfm_core.pipeline.suite_tasks import Task, tasks_of
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import VARIABLES, perturbfm
from tests.support.paths import REPO
from tests.support.slurm_node import skip_unless_started, slurm_node, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.no_cover,
    pytest.mark.skipif("PERTURBFM_CLUSTER" not in os.environ, reason="takes minutes: make cluster-test"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a Slurm, and stand in a folder with the frozen splits."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shutil.copytree(REPO / "splits", work / "splits")
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with skip_unless_started(), slurm_node() as conf:
        monkeypatch.setenv("SLURM_CONF", str(conf))
        yield


def submit() -> dict:
    words = ("--on", "slurm", "--chunk", 4, "--mem", "1500M", "--time", 20)
    return perturbfm("suite", "submit", "demo", *words, "--json").json


def until(wanted: Callable[[list[Task]], bool], seconds: float = 400) -> list[Task]:
    deadline = time.monotonic() + seconds
    while not wanted(tasks := tasks_of(ArtifactStore(), "demo")):
        assert time.monotonic() < deadline, [t.row() for t in tasks]
        time.sleep(0.5)
    return tasks


def test_24_cells_in_six_tasks_one_cancelled_are_24_runs(slurm):
    first = submit()
    assert (first["submitted"], first["tasks"]) == (24, 6)
    # Asked again while all wait or run, nothing more is submitted.
    assert submit()["submitted"] == 0
    # One that has begun, but not ended.
    running = until(lambda tasks: any(t.state == "running" and t.record for t in tasks))
    victim = next(t for t in running if t.state == "running" and t.record)
    subprocess.run(["scancel", str(victim.job)], check=True)
    tasks = until(lambda tasks: not any(t.is_live for t in tasks))
    states = [t.state for t in tasks]
    assert states.count("done") == 5
    assert tasks[victim.index].state == "cancelled"
    left = 24 - len(ArtifactStore().run_dirs())
    assert 0 < left <= 4
    second = submit()
    assert (second["submitted"], second["tasks"]) == (left, 1)
    until(lambda tasks: not any(t.is_live for t in tasks))
    assert len(ArtifactStore().run_dirs()) == 24
    assert submit()["submitted"] == 0
    found = perturbfm("suite", "status", "demo", "--json").json
    assert (found["done"], found["missing"], found["failed"]) == (24, 0, 0)
    # The refresh runs behind the array.
    deadline = time.monotonic() + 120
    while subprocess.run(["squeue", "--noheader"], capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert len(perturbfm("leaderboard", "sql", "SELECT run_id FROM runs", "--json").json) == 24
    assert Path("runs/scorecards/demo/scorecard.json").is_file()
    assert list(ArtifactStore().staging_root.glob("*")) == []
