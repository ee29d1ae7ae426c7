"""Suites submitted to this host: real processes, run, killed, cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perturbfm_core.errors import ClusterError
from perturbfm_core.pipeline.suite_jobs import read_submission
from perturbfm_core.pipeline.suite_processes import end_processes
from perturbfm_core.pipeline.suite_submit import cancel_tasks
from perturbfm_core.pipeline.suite_tasks import tasks_of
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.submitted_suite import PLAN, states, status, submit


def wait_until_over(seconds: float = 120) -> list:
    deadline = time.monotonic() + seconds
    while any(t.is_live for t in tasks_of(ArtifactStore(), "t")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return tasks_of(ArtifactStore(), "t")


def has_ended(pid: str) -> bool:
    try:
        return os.waitpid(int(pid), os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


@pytest.mark.no_cover
def test_four_cells_in_two_tasks_one_killed_and_submitted_again_are_four_runs(home, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    only = ("--only", "split=context", "--only", f"split={fold()}")
    made = submit("--on", "local", "--chunk", 2, *only)
    assert (made["submitted"], made["tasks"]) == (4, 2)
    os.killpg(int(made["jobs"][0]), signal.SIGKILL)
    tasks = wait_until_over()
    assert [(t.state, len(t.cells)) for t in tasks] == [("lost", 2), ("done", 2)]
    again = submit("--on", "local", "--chunk", 2, *only)
    assert (again["done"], again["submitted"], again["tasks"]) == (2, 2, 1)
    assert [t.state for t in wait_until_over()] == ["lost", "done", "done"]
    assert len(ArtifactStore().run_dirs()) == 4
    assert submit("--on", "local", *only)["submitted"] == 0
    deadline = time.monotonic() + 60
    while not has_ended(again["refresh"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    card = json.loads(Path("runs/scorecards/t/scorecard.json").read_text())
    assert {e["entry"] for e in card["entries"]} == {"control_only", "global_mean"}
    assert Path("runs/leaderboard.duckdb").is_file()


def fold() -> str:
    """Return the key of the first fold of the suite."""
    return next(r["split"] for r in status()["rows"] if ".combo_ood." in r["split"])


def test_cancelled_processes_are_gone_and_their_cells_missing(home):
    made = submit("--on", "local", "--chunk", 3, "--setup", "sleep 300")
    assert states() == ["running"] * 2
    assert status()["running"] == 6
    assert perturbfm("suite", "cancel", "t", "--json").json["cancelled"] == 2
    assert all(has_ended(pid) for pid in (*made["jobs"], made["refresh"]))
    assert states() == ["cancelled"] * 2
    assert status()["missing"] == 6
    assert perturbfm("suite", "cancel", "t", "--json").json["cancelled"] == 0


def test_a_failing_setup_is_in_the_log(home):
    made = submit("--on", "local", "--chunk", 6, "--setup", "no_such_module load x")
    (task,) = wait_until_over()
    assert task.state == "lost"
    assert "no_such_module" in perturbfm("suite", "logs", "t", "control_only").out
    while not has_ended(made["refresh"]):
        time.sleep(0.1)


@pytest.fixture
def victim() -> Iterator[subprocess.Popen]:
    """Run a process that no submission has to do with, the head of its group."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("boot", ["loginnode7@deadbeef", "loginnode7", "loginnode7-4026532001@0"])
def test_processes_of_another_host_are_not_those_of_this_one(tmp_path, victim, boot):
    home = ArtifactStore(tmp_path, tmp_path / "splits")
    folder = home.jobs / "demo/id"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(
        json.dumps(PLAN | {"suite": "demo", "on": "local", "boot": boot, "time": time.time()})
    )
    (folder / "started.json").write_text(
        json.dumps({"jobs": [[str(victim.pid), 0, 1]], "refresh": str(victim.pid)})
    )
    host = boot.partition("@")[0]
    (task,) = tasks_of(home, "demo")
    assert (task.state, task.is_live) == ("unknown", True)
    assert f"on host {host};" in task.reason
    said = f"task runs on host {host}; cancel it there"
    with pytest.raises(ClusterError, match=said):
        cancel_tasks(home, "demo")
    with pytest.raises(ClusterError, match=said):
        end_processes({str(victim.pid): read_submission(folder)})
    assert victim.poll() is None
    assert not (folder / "task-0000.json").exists()


def test_what_runs_here_is_cancelled_beside_what_runs_elsewhere(home, victim):
    made = submit("--on", "local", "--chunk", 6, "--setup", "sleep 300")
    other = Path("runs/.jobs/t/20000101-000000-aaaa")
    other.mkdir()
    (other / "submission.json").write_text(json.dumps(PLAN | {"on": "local", "boot": "loginnode7@x"}))
    (other / "started.json").write_text(json.dumps({"jobs": [[str(victim.pid), 0, 1]]}))
    answer = attempt("suite", "cancel", "t")
    assert (answer.code, "loginnode7; cancel it there" in answer.err) == (2, True)
    assert answer.err.endswith("; 1 other tasks were cancelled\n")
    assert all(has_ended(pid) for pid in (*made["jobs"], made["refresh"]))
    assert [t.state for t in tasks_of(ArtifactStore(), "t")] == ["unknown", "cancelled"]
    assert victim.poll() is None
