"""Schedules that request a suite's unfinished cells; off until somebody turns them on in the UI."""

from collections.abc import Iterator

import dagster as dg

from perturbfm_assets.jobs import benchmark
from perturbfm_assets.partitions import CATALOG, grid_key
from perturbfm_assets.readable import described_split
from perturbfm_assets.suite import suite_split_keys
from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.pipeline.suite_status import suite_status
from perturbfm_core.store.artifacts import ArtifactStore


def suite_schedule(suite: SuiteEntry) -> dg.ScheduleDefinition:
    """Return the schedule that requests the applicable cells of a suite that have no run of the same inputs and code."""

    @dg.schedule(
        name=f"refresh_{suite.name.replace('-', '_').replace('.', '_')}",
        job=benchmark,
        cron_schedule=str(suite.refresh_cron),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Cells of suite {suite.name} without a run of these inputs and this code: {suite.description}",
    )
    def refresh(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        """Request the suite's cells, but for those whose run of the same inputs and code is there."""
        at = context.scheduled_execution_time.strftime("%Y%m%d-%H%M")
        home = ArtifactStore()
        keys = suite_split_keys(home, suite.name)
        found = suite_status(home, plan_suite(home, suite).cells)
        unfinished = {(s.cell.split.key, s.cell.entry) for s in found if s.state in ("missing", "failed")}
        asked = [(m, k) for k in keys for m in suite.models if (k, m) in unfinished]
        if not asked:
            yield dg.SkipReason(f"all cells of suite {suite.name} have runs of these inputs and this code")
        for model, split in asked:
            yield dg.RunRequest(
                run_key=f"{at}-{model}-{split}",
                partition_key=grid_key(model, split),
                tags={f"perturbfm/{name}": text for name, text in described_split(split).items()},
            )

    return refresh


schedules = [suite_schedule(s) for s in CATALOG.suites.values() if s.refresh_cron]
