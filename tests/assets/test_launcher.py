"""The run launcher: which started runs are called dead by run monitoring, and which are left alone."""

from __future__ import annotations

import os
import subprocess
import sys

import dagster as dg
import pytest
from dagster._core.launcher.base import WorkerStatus

from perturbfm_assets.launcher import HOST_TAG, WatchedRunLauncher, host_tags
from perturbfm_core.store.owner import this_boot
from tests.support.paths import REPO

HOST, BOOT = this_boot().split("@")


@dg.op
def nothing() -> None:
    """Do nothing."""


@dg.job
def empty() -> None:
    """Do nothing."""
    nothing()


def status(monkeypatch, pid: int, tags: dict[str, str]) -> WorkerStatus:
    """Return what the launcher says of a run that the process `pid` started."""
    monkeypatch.setattr("dagster._core.events.os.getpid", lambda: pid)
    with dg.DagsterInstance.ephemeral() as instance:
        result = empty.execute_in_process(
            instance=instance,
            tags=tags,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        monkeypatch.undo()
        launcher = WatchedRunLauncher()
        launcher.register_instance(instance)
        return launcher.check_run_worker_health(instance.get_run_by_id(result.run_id)).status


@pytest.fixture
def ended() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(30)
    return process.pid


def test_a_run_of_a_process_that_lives_is_running(monkeypatch):
    assert status(monkeypatch, os.getpid(), host_tags()) == WorkerStatus.RUNNING


def test_a_run_of_a_process_that_ended_has_failed(monkeypatch, ended):
    assert status(monkeypatch, ended, host_tags()) == WorkerStatus.FAILED


def test_a_run_before_the_host_started_again_has_failed(monkeypatch):
    assert status(monkeypatch, os.getpid(), {HOST_TAG: f"{HOST}@00000000"}) == WorkerStatus.FAILED


@pytest.mark.parametrize("tags", [{HOST_TAG: f"elsewhere@{BOOT}"}, {HOST_TAG: "elsewhere@00000000"}, {}])
def test_nothing_is_known_of_another_host(monkeypatch, ended, tags):
    assert status(monkeypatch, ended, tags) == WorkerStatus.RUNNING


def test_the_configuration_watches_runs_and_frees_slots(tmp_path):
    (tmp_path / "dagster.yaml").write_text((REPO / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        # By name: other tests import the code location anew.
        assert type(instance.run_launcher).__name__ == WatchedRunLauncher.__name__
        assert instance.run_launcher.supports_check_run_worker_health
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] >= 1
        # On a busy host the last of ten runs takes minutes to load the code location.
        assert instance.run_monitoring_start_timeout_seconds >= 900
