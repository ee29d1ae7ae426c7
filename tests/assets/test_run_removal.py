"""Runs that are deleted while they go on: cancelled first, or kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

from perturbfm_assets import run_removal
from tests.assets.test_storage import instance, look


class Launcher:
    """Ends runs as it is told to."""

    supports_check_run_worker_health = True

    def __init__(self, opened: dg.DagsterInstance) -> None:
        self.instance, self.asked, self.gone = opened, [], False
        self.answer: bool | Exception = True

    def terminate(self, run_id: str) -> bool:
        self.asked.append(run_id)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer:
            self.instance.report_run_canceled(self.instance.get_run_by_id(run_id))
        return self.answer

    def check_run_worker_health(self, _: dg.DagsterRun) -> CheckRunHealthResult:
        return CheckRunHealthResult(WorkerStatus.FAILED if self.gone else WorkerStatus.RUNNING)

    def dispose(self) -> None:
        """Close nothing."""


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setattr(run_removal, "PATIENCE_S", 0.0)
    with instance(tmp_path, own=True) as found:
        found._run_launcher = Launcher(found)
        yield found


def begun(opened: dg.DagsterInstance, status: Status) -> str:
    run_id: str = opened.create_run_for_job(look, status=status).run_id
    return run_id


@pytest.mark.parametrize("status", [Status.STARTED, Status.STARTING, Status.CANCELING])
def test_a_run_that_goes_on_is_cancelled_before_it_is_deleted(opened, status):
    run_id = begun(opened, status)
    opened.delete_run(run_id)
    assert opened.run_launcher.asked == [run_id]
    assert opened.get_run_by_id(run_id) is None


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILURE, Status.CANCELED])
def test_a_run_that_has_ended_is_deleted_at_once(opened, status):
    run_id = begun(opened, status)
    opened.delete_run(run_id)
    assert opened.run_launcher.asked == []
    assert opened.get_run_by_id(run_id) is None


def test_a_run_whose_process_is_gone_is_deleted_at_once(opened):
    run_id = begun(opened, Status.STARTED)
    opened.run_launcher.gone = True
    opened.delete_run(run_id)
    assert opened.run_launcher.asked == []
    assert opened.get_run_by_id(run_id) is None


@pytest.mark.parametrize("answer", [False, DagsterUserCodeUnreachableError("gone")])
def test_a_run_that_cannot_be_ended_from_here_is_kept(opened, answer):
    run_id = begun(opened, Status.STARTED)
    opened.run_launcher.answer = answer
    with pytest.raises(dg.DagsterError, match="end it where it was started"):
        opened.delete_run(run_id)
    assert opened.get_run_by_id(run_id) is not None


def test_a_run_that_never_began_is_deleted_without_its_server(opened):
    run_id = begun(opened, Status.STARTING)
    opened.run_launcher.answer = DagsterUserCodeUnreachableError("gone")
    opened.delete_run(run_id)
    assert opened.get_run_by_id(run_id) is None
