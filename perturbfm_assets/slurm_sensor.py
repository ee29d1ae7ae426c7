"""A sensor that brings Dagster and Slurm together where Dagster itself does not look: runs before their first line."""

import time

import dagster as dg

from perturbfm_assets.slurm_launcher import ENDED, NAME_PREFIX, SlurmRunLauncher, job_of
from perturbfm_core.errors import ClusterError
from perturbfm_core.pipeline import slurm_queue

# A run that has written its end still closes its files.
_GRACE_S = 60.0
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dg.sensor(
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
    description="Of runs that are jobs of Slurm: fails those that never began, cancels the jobs of those that are over.",
)
def reconcile_slurm(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Fail runs whose job ended before it began to report, and cancel jobs whose run is over.

    A run that waits in Slurm is *starting* to Dagster: run monitoring does not ask about it, and cancelling it only
    marks it.
    """
    launcher = context.instance.run_launcher
    if not isinstance(launcher, SlurmRunLauncher):
        return dg.SkipReason("runs are not launched by Slurm here")
    try:
        queued = {
            e.name.removeprefix(NAME_PREFIX): e
            for e in slurm_queue.own_queue()
            if e.name.startswith(NAME_PREFIX)
        }
        failed = _fail_what_ended(context.instance, launcher, queued)
        cancelled = _cancel_what_is_over(context.instance, queued)
    except ClusterError as error:
        return dg.SkipReason(str(error))
    return dg.SkipReason(f"{len(queued)} jobs; {failed} runs failed, {cancelled} jobs cancelled")


def _fail_what_ended(
    instance: dg.DagsterInstance, launcher: SlurmRunLauncher, queued: dict[str, slurm_queue.QueueEntry]
) -> int:
    """Fail the runs that Slurm will never start."""
    failed = 0
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING])):
        # Without a number of its own sbatch may be under way.
        if run.run_id in queued or job_of(run) is None:
            continue
        state, line = launcher.state(run)
        if state != "GONE" and state not in ENDED:
            continue
        # It may have begun, and even ended, since it was looked up.
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status == dg.DagsterRunStatus.STARTING:
            instance.report_run_failed(now, f"The run never began: {line}")
            failed += 1
    return failed


def _cancel_what_is_over(instance: dg.DagsterInstance, queued: dict[str, slurm_queue.QueueEntry]) -> int:
    """Cancel the jobs of runs that were marked as ended."""
    if not queued:
        return 0
    jobs = []
    for record in instance.get_run_records(dg.RunsFilter(run_ids=list(queued), statuses=_FINISHED)):
        entry = queued[record.dagster_run.run_id]
        age = time.time() - record.update_timestamp.timestamp()
        if entry.is_pending or age > _GRACE_S:
            jobs.append(entry.job)
    slurm_queue.cancel(jobs)
    return len(jobs)
