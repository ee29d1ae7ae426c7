"""Sensors that rank after cells, take submissions from the inbox, and reconcile Slurm; the last two are off until turned on."""

import dagster as dg

from perturbfm_assets.jobs import benchmark, publish_submissions, refresh_leaderboard
from perturbfm_assets.slurm_sensor import reconcile_slurm
from perturbfm_core.pipeline.inbox_files import inbox_of, ready
from perturbfm_core.store.artifacts import ArtifactStore

_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_ON_THE_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.sensor(
    job=refresh_leaderboard,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)
def rank_after_cells(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Rebuild the leaderboard once the last of the launched cells has ended, whatever became of it."""
    runs = context.instance
    waiting = runs.get_runs_count(dg.RunsFilter(job_name=benchmark.name, statuses=_ON_THE_WAY))
    if waiting:
        return dg.SkipReason(f"{waiting} cells are on the way; the leaderboard is rebuilt after the last")
    cells = dg.RunsFilter(job_name=benchmark.name, statuses=_ENDED)
    ended = runs.get_runs_count(cells)
    if not ended:
        return dg.SkipReason("no cell has been launched")
    # The same key asks once: nothing happens until another cell has ended, whenever it was launched.
    return dg.RunRequest(run_key=f"rank-after-{ended}-{runs.get_runs(cells, limit=1)[0].run_id}")


@dg.sensor(
    job=publish_submissions,
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
)
def inbox(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Take what lies complete in the inbox, each file once."""
    home = ArtifactStore()
    found = ready(home)
    if found is None:
        return dg.SkipReason(f"{inbox_of(home)} holds no file with a description beside it")
    return dg.RunRequest(run_key=f"inbox-{found}")


sensors = [rank_after_cells, inbox, reconcile_slurm]
