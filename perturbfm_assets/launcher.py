"""The run launcher of ``dagster.yaml``: Dagster's own, which also knows whether a run's process still lives."""

from __future__ import annotations

from dagster import DagsterEventType, DagsterInstance, DagsterRun
from dagster._core.launcher import DefaultRunLauncher, LaunchRunContext
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

from perturbfm_core.store.owner import process_has_ended, this_boot

# The host that a run is on, and its boot: a process number says nothing elsewhere.
HOST_TAG = "perturbfm/host"


def host_tags() -> dict[str, str]:
    """Return the tags of a run in this process, by which run monitoring finds out that it was killed."""
    return {HOST_TAG: this_boot()}


def mark_host(instance: DagsterInstance, run: DagsterRun) -> None:
    """Tag a run with the host of this process if no launcher has: of ``dg launch``, which starts none."""
    if HOST_TAG not in run.tags:
        instance.add_run_tags(run.run_id, host_tags())


class WatchedRunLauncher(DefaultRunLauncher):
    """Launches runs on this host; run monitoring ends those whose process was killed.

    A code server reports a worker that dies while the server lives. What is left is a worker that dies with its
    server, and a run inside another process, such as ``make demo``: both would be running for ever.
    """

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run, marked with this host."""
        self._instance.add_run_tags(context.dagster_run.run_id, host_tags())
        super().launch_run(context)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return that runs are watched."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether the process of a started run lives; a run of another host, or of no known process, does."""
        boot = run.tags.get(HOST_TAG)
        started = self._instance.all_logs(run.run_id, of_type=DagsterEventType.RUN_START)
        event = started[-1].dagster_event if started else None
        if boot is None or event is None or event.pid is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if not process_has_ended(boot, event.pid, started[-1].timestamp):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"process {event.pid} of the run has ended")
