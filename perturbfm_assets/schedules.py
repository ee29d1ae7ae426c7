"""Schedules that request a suite's unfinished cells; off until somebody turns them on in the UI."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg

from perturbfm_assets.clocks import wrong_clocks
from perturbfm_assets.jobs import ON_THE_WAY, benchmark, cells_of_asset_pages
from perturbfm_assets.partitions import CATALOG, grid_key
from perturbfm_assets.readable import described_split
from perturbfm_assets.suite import suite_split_keys
from perturbfm_core.catalog.entries import SuiteEntry
from perturbfm_core.config import content_hash
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.pipeline.suite_status import suite_status
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_requests import is_behind


def schedule_name(suite: str, suites: Iterable[str]) -> str:
    """Return the name of a suite's schedule, which is not that of another suite's: Dagster allows letters, digits and ``_``."""
    plain = re.sub(r"[-.]", "_", suite)
    others = {name for name in suites if name != suite and re.sub(r"[-.]", "_", name) == plain}
    return f"refresh_{plain}" + (f"_{content_hash(suite)[:6]}" if others and suite != plain else "")


def cells_on_the_way(instance: dg.DagsterInstance) -> set[str | None]:
    """Return the partitions of cells that are queued or running, whoever asked for them."""
    # One that a tick made and could not launch is asked for again by the same tick.
    statuses = [s for s in ON_THE_WAY if s != dg.DagsterRunStatus.NOT_STARTED]
    cells = instance.get_runs(dg.RunsFilter(job_name=benchmark.name, statuses=statuses))
    return {run.tags.get("dagster/partition") for run in (*cells, *cells_of_asset_pages(instance, statuses))}


def suite_schedule(suite: SuiteEntry) -> dg.ScheduleDefinition:
    """Return the schedule that requests the applicable cells of a suite that have no run of the same inputs and code that counts."""

    @dg.schedule(
        name=schedule_name(suite.name, [s.name for s in CATALOG.suites.values() if s.refresh_cron]),
        job=benchmark,
        cron_schedule=str(suite.refresh_cron),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Cells of suite {suite.name} without a run of these inputs and this code: {suite.description}",
    )
    def refresh(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        """Request the suite's cells, but for those whose run of the same inputs and code is there or on the way."""
        at = context.scheduled_execution_time.strftime("%Y%m%d-%H%M")
        home = ArtifactStore()
        keys = suite_split_keys(home, suite.name)
        found = suite_status(home, plan_suite(home, suite).cells)
        unfinished = {(s.cell.split.key, s.cell.entry) for s in found if s.state in ("missing", "failed")}
        done: dict[tuple[str, str], list[Path]] = defaultdict(list)
        for s in found:
            if s.run is not None:
                done[s.cell.split.key, s.cell.entry].append(s.run)
        # Of an entry or code that was changed and changed back the board has the run between: asked for, the earlier counts again.
        unfinished |= {cell for cell, runs in done.items() if is_behind(home, runs)}
        wanted = [(m, k) for k in keys for m in suite.models if (k, m) in unfinished]
        on_the_way = cells_on_the_way(context.instance) if wanted else set()
        asked = [cell for cell in wanted if str(grid_key(*cell)) not in on_the_way]
        if not wanted:
            yield dg.SkipReason(f"all cells of suite {suite.name} have runs of these inputs and this code")
        elif not asked:
            yield dg.SkipReason(f"all {len(wanted)} unfinished cells of suite {suite.name} are on the way")
        for model, split in asked:
            yield dg.RunRequest(
                run_key=f"{at}-{model}-{split}",
                partition_key=grid_key(model, split),
                tags={f"perturbfm/{name}": text for name, text in described_split(split).items()},
            )

    return refresh


def suite_schedules() -> list[dg.ScheduleDefinition]:
    """Return the schedules of the suites with a clock; one that cannot be read is a line in the log of the code location."""
    wrong = wrong_clocks()
    for line in wrong.values():
        dg.get_dagster_logger().warning(line)
    return [suite_schedule(s) for s in CATALOG.suites.values() if s.refresh_cron and s.name not in wrong]


schedules = suite_schedules()
