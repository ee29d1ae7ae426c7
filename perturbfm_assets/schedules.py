"""Refreshes by the clock; off until somebody turns them on in the UI."""

from collections.abc import Iterator

import dagster as dg

from perturbfm_assets.jobs import benchmark, refresh_leaderboard
from perturbfm_assets.partitions import CATALOG, SPLITS, grid_key
from perturbfm_assets.suite import suite_split_keys
from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.store.artifacts import ArtifactStore


def suite_schedule(suite: SuiteEntry) -> dg.ScheduleDefinition:
    """Return the schedule that requests every applicable cell of a suite, missing or not."""

    @dg.schedule(
        name=f"refresh_{suite.name.replace('-', '_').replace('.', '_')}",
        job=benchmark,
        cron_schedule=str(suite.refresh_cron),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"All cells of suite {suite.name}: {suite.description}",
    )
    def refresh(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        """Request the suite's cells."""
        at = context.scheduled_execution_time.strftime("%Y%m%d-%H%M")
        for split in suite_split_keys(ArtifactStore(), suite.name):
            for model in suite.models:
                if why_not(SPLITS[split].traits, CATALOG.model(model)) is None:
                    yield dg.RunRequest(run_key=f"{at}-{model}-{split}", partition_key=grid_key(model, split))

    return refresh


suite_schedules = [suite_schedule(s) for s in CATALOG.suites.values() if s.refresh_cron]

_crons = [s.refresh_cron for s in CATALOG.suites.values() if s.refresh_cron]

leaderboard_schedules = [
    dg.ScheduleDefinition(
        name="refresh_leaderboard_schedule",
        job=refresh_leaderboard,
        cron_schedule=str(cron),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Rebuild the leaderboard; the clock is that of the first suite of the catalog.",
    )
    for cron in _crons[:1]
]

schedules = [*suite_schedules, *leaderboard_schedules]
