"""Sensors that rank after runs and take submissions from the inbox; off until somebody turns them on in the UI."""

import time

import dagster as dg

from perturbfm_assets.jobs import benchmark, publish_submissions, refresh_leaderboard
from perturbfm_core.pipeline.inbox_files import inbox_of, ready
from perturbfm_core.store.artifacts import ArtifactStore


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[benchmark],
    request_job=refresh_leaderboard,
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=60,
)
def rank_after_cells(context: dg.RunStatusSensorContext) -> dg.RunRequest:
    """Rebuild the leaderboard after cells finished, at most once a minute."""
    # The minute of this tick, not of the cell: a cell that ended after an earlier tick of its minute asks again.
    return dg.RunRequest(run_key=f"rank-{int(time.time() // 60)}")


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


sensors = [rank_after_cells, inbox]
