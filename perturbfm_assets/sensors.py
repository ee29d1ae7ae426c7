"""Sensors that rank after cells, take submissions from the inbox, and reconcile Slurm; the last two are off until turned on."""

import time

import dagster as dg

from perturbfm_assets.jobs import benchmark, publish_submissions, refresh_leaderboard
from perturbfm_assets.slurm_sensor import reconcile_slurm
from perturbfm_core.pipeline.inbox_files import inbox_of, ready
from perturbfm_core.store.artifacts import ArtifactStore

FILES_TAG = "perturbfm/inbox"
# Seconds until a failed scan of the inbox is tried again: the first time, and at most.
FIRST_RETRY_S, LAST_RETRY_S = 300.0, 6 * 3600.0
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
    # A try that failed, say on a full disk, is made again although the files are the same, ever later.
    tried = context.instance.get_run_records(
        dg.RunsFilter(
            job_name=publish_submissions.name, tags={FILES_TAG: found}, statuses=[*_ON_THE_WAY, *_ENDED]
        )
    )
    failed = [
        t for t in tried if t.dagster_run.status != dg.DagsterRunStatus.SUCCESS and t.end_time is not None
    ]
    if failed:
        wait = min(FIRST_RETRY_S * 2 ** (len(failed) - 1), LAST_RETRY_S)
        left = max(t.end_time or 0.0 for t in failed) + wait - time.time()
        if left > 0:
            return dg.SkipReason(f"try {len(failed)} failed; the next is in {left / 60:.0f} minutes")
    key = f"inbox-{found}" + (f"-{len(failed)}" if failed else "")
    return dg.RunRequest(run_key=key, tags={FILES_TAG: found})


sensors = [rank_after_cells, inbox, reconcile_slurm]
