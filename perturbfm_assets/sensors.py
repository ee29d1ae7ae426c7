"""Sensor that rebuilds the leaderboard after runs; off until somebody turns it on in the UI."""

import time

import dagster as dg

from perturbfm_assets.jobs import benchmark, refresh_leaderboard


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


sensors = [rank_after_cells]
