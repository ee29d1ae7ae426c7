"""What follows by itself; off until somebody turns it on in the UI."""

import dagster as dg

from perturbfm_assets.jobs import benchmark, refresh_leaderboard


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[benchmark],
    request_job=refresh_leaderboard,
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=60,
)
def rank_after_cells(context: dg.RunStatusSensorContext):
    """Rebuild the leaderboard after cells finished, at most once a minute."""
    minute = int(context.dagster_event.timestamp // 60) if context.dagster_event else 0
    return dg.RunRequest(run_key=f"rank-{minute}")


sensors = [rank_after_cells]
