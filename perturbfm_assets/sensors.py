"""Sensors that rank after cells, take submissions from the inbox, and reconcile Slurm; the last two are off until turned on."""

import dagster as dg

from perturbfm_assets.assets.report import report
from perturbfm_assets.inbox_sensor import inbox
from perturbfm_assets.jobs import (
    ASSET_JOB,
    ON_THE_WAY,
    benchmark,
    cells_of_asset_pages,
    publish_submissions,
    refresh_leaderboard,
)
from perturbfm_assets.slurm_sensor import reconcile_slurm
from perturbfm_assets.tries import ENDED, next_try

# The cells after whose end a ranking was asked for.
CELLS_TAG = "perturbfm/cells"
# Of the failed runs of assets, the last of which need not be a cell.
_LOOKED_AT = 50


def _waits(instance: dg.DagsterInstance) -> int:
    """Return how many runs of cells are on the way, those that were launched from the page of an asset too."""
    cells = instance.get_runs_count(dg.RunsFilter(job_name=benchmark.name, statuses=list(ON_THE_WAY)))
    return cells + len(cells_of_asset_pages(instance, ON_THE_WAY))


def _last_ended(instance: dg.DagsterInstance) -> str | None:
    """Return an identity of the cell that ended last and of all before it, None if none has."""
    cells = dg.RunsFilter(job_name=benchmark.name, statuses=list(ENDED))
    ended = instance.get_runs_count(cells)
    known = [str(ended), instance.get_runs(cells, limit=1)[0].run_id] if ended else []
    made = instance.get_latest_materialization_event(report.key)
    if made is not None and made.run_id:
        run = instance.get_run_by_id(made.run_id)
        if run is not None and run.job_name == ASSET_JOB:
            known.append(run.run_id)
    # What failed may have published some of its seeds before, and a scan of the inbox some of its submissions, and ranked none.
    broken = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    known += [run.run_id for run in cells_of_asset_pages(instance, broken, _LOOKED_AT)[:1]]
    if scans := instance.get_runs_count(dg.RunsFilter(job_name=publish_submissions.name, statuses=broken)):
        known.append(f"inbox{scans}")
    return "-".join(known) or None


@dg.sensor(
    job=refresh_leaderboard,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Rebuilds the leaderboard once the last of the launched cells has ended, failed or not.",
)
def rank_after_cells(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Rebuild the leaderboard once the last of the launched cells has ended, whatever became of it."""
    if waiting := _waits(context.instance):
        return dg.SkipReason(f"{waiting} cells are on the way; the leaderboard is rebuilt after the last")
    last = _last_ended(context.instance)
    if last is None:
        return dg.SkipReason("no cell has been launched")
    # The same key asks once: nothing happens until another cell has ended, whenever it was launched.
    key = next_try(context.instance, refresh_leaderboard.name, CELLS_TAG, f"rank-after-{last}")
    return (
        key
        if isinstance(key, dg.SkipReason)
        else dg.RunRequest(run_key=key, tags={CELLS_TAG: f"rank-after-{last}"})
    )


sensors = [rank_after_cells, inbox, reconcile_slurm]
