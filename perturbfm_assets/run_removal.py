"""The table of runs of ``dagster.yaml``: a run that is deleted while it goes on is cancelled first."""

from __future__ import annotations

import time

from dagster import DagsterError, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.runs.sqlite import SqliteRunStorage

# A process that was asked to end finishes the step of its training first.
PATIENCE_S = 60.0
_HAS_PROCESS = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


class RunStillGoesOnError(DagsterError):
    """A run that was to be deleted goes on, and cannot be ended from here."""


class CancellingRunStorage(SqliteRunStorage):
    """Dagster's own table of runs.

    A deleted run is on no page and cannot be cancelled, but its process would train on, with the training slot of the host.
    """

    def delete_run(self, run_id: str) -> None:
        """Delete a run, once what goes on of it has ended.

        Raises
        ------
        RunStillGoesOnError
            If it cannot be ended.
        """
        if self.has_instance:
            self._end(run_id)
        super().delete_run(run_id)

    def _end(self, run_id: str) -> None:
        """Cancel a run and wait for its end; one whose process is gone, or never came to be, needs none."""
        run = self._going_on(run_id)
        if run is None:
            return
        asked, end = self._asked_to_end(run_id), time.monotonic() + PATIENCE_S
        if not asked and run.status == DagsterRunStatus.STARTING:
            return
        while self._going_on(run_id) is not None:
            if not asked or time.monotonic() > end:
                message = f"run {run_id} goes on and is kept; end it where it was started, and delete it then"
                raise RunStillGoesOnError(message)
            time.sleep(0.2)

    def _going_on(self, run_id: str) -> DagsterRun | None:
        """Return a run that has not ended and whose process is not known to be gone, else None."""
        found = self.get_runs(RunsFilter(run_ids=[run_id], statuses=list(_HAS_PROCESS)))
        launcher = self._instance.run_launcher
        if found and launcher.supports_check_run_worker_health:
            health = launcher.check_run_worker_health(found[0])
            return found[0] if health.status == WorkerStatus.RUNNING else None
        return found[0] if found else None

    def _asked_to_end(self, run_id: str) -> bool:
        try:
            return bool(self._instance.run_launcher.terminate(run_id))
        except DagsterUserCodeUnreachableError:
            return False
