"""Whole suites in one run: job `demo`, which records every stage as a materialisation of its asset."""

import dagster as dg

from perturbfm_assets import assets
from perturbfm_assets.assets.report import AGAIN_TAG
from perturbfm_assets.jobs import (
    benchmark,
    build_graph,
    make_dataset,
    quiet_logs,
    refresh_leaderboard,
    verify_split,
)
from perturbfm_assets.launcher import host_tags
from perturbfm_assets.links import page_url
from perturbfm_assets.partitions import CATALOG, SPLITS, grid_key
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog
from perturbfm_core.errors import PerturbFMError
from perturbfm_core.graphs.side_info import COEXPRESSION
from perturbfm_core.pipeline.opening import needs_of
from perturbfm_core.pipeline.suite import SuitePlan, plan_suite
from perturbfm_core.pipeline.suite_data import suite_dataset
from perturbfm_core.pipeline.suite_scorecard import suite_scorecard, write_scorecard
from perturbfm_core.store.artifacts import ArtifactStore

# The jobs that the op below runs in its own process, resolved here.
_STAGES = dg.Definitions(
    assets=dg.load_assets_from_package_module(assets, include_specs=True),
    jobs=[benchmark, build_graph, make_dataset, refresh_leaderboard, verify_split],
    resources={"store": StoreResource()},
)


class SuiteConfig(dg.Config):
    """Which suite of the catalog to run."""

    suite: str = "demo"


def suite_plan(store: ArtifactStore, suite: str) -> SuitePlan:
    """Return the cells of a suite, as `perturbfm suite run` has them; its data sets are made if they are missing."""
    chosen = CATALOG.suite(suite)
    for group in chosen.grid:
        suite_dataset(store, group, tell=store.tell)
    plan = plan_suite(store, chosen, tell=store.tell)
    missing = [split.key for split in plan.splits if split.key not in SPLITS]
    if missing:
        message = f"splits {missing} of suite {suite!r} are not frozen yet; run `perturbfm demo --suite {suite}` and reload"
        raise dg.Failure(message)
    return plan


def suite_split_keys(store: ArtifactStore, suite: str) -> list[str]:
    """Return the grid's split keys of a suite; its data sets are made if they are missing."""
    return [split.key for split in suite_plan(store, suite).splits]


def _is_cancelled(context: dg.OpExecutionContext, result: dg.ExecuteInProcessResult) -> bool:
    """Return whether the job was cancelled while a run inside it went on, which keeps the interrupt to itself."""
    failures = (e.job_failure_data for e in result.all_events if e.is_job_failure)
    if any(
        f.failure_reason is not None and f.failure_reason.name == "UNEXPECTED_TERMINATION" for f in failures
    ):
        return True
    # Between two of its steps an interrupt is lost; that the job was asked to stop is kept.
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


@dg.op(
    description="Materialise the data sets, splits and experiments of a suite, each as its own run, then the leaderboard "
    "and the suite's scorecard."
)
def run_suite(context: dg.OpExecutionContext, config: SuiteConfig) -> None:
    """Run every stage of a suite in this process; a cell that fails stops no other, and fails the job at the end."""
    store, suite = ArtifactStore(tell=RunLog(context)), CATALOG.suite(config.suite)
    plan = suite_plan(store, config.suite)
    splits = [split.key for split in plan.splits]
    todo: list[tuple[str, str]] = [("make_dataset", group.dataset) for group in suite.grid]
    todo += [("verify_split", key) for key in splits]
    if any(COEXPRESSION in needs_of(CATALOG.model(m)).graphs for m in suite.models):
        todo += [("build_graph", key) for key in splits]
    # A partition holds all seeds of an entry, which are cells of their own.
    todo += [("benchmark", grid_key(*c)) for c in dict.fromkeys((c.entry, c.split.key) for c in plan.cells)]
    again = {AGAIN_TAG: context.run.tags[AGAIN_TAG]} if AGAIN_TAG in context.run.tags else {}
    failed = []
    for i, (job, key) in enumerate(todo):
        context.log.info(f"{i + 1} of {len(todo)}: {job} {key}")
        result = _STAGES.resolve_job_def(job).execute_in_process(
            instance=context.instance,
            partition_key=key,
            run_config=quiet_logs(),
            tags={**host_tags(), **again},
            raise_on_error=job != "benchmark",
        )
        if _is_cancelled(context, result):
            raise KeyboardInterrupt
        if not result.success:
            failed.append(str(key))
    try:
        _rank_and_compare(context, store, plan)
    except PerturbFMError as error:
        # Without any run there is nothing to rank; why there is none is what has to be said.
        if not failed:
            raise
        context.log.warning(str(error))
    if failed:
        message = f"{len(failed)} cells of suite {suite.name!r} failed, their runs have the reasons: {', '.join(failed)}"
        raise dg.Failure(message)


def _rank_and_compare(context: dg.OpExecutionContext, store: ArtifactStore, plan: SuitePlan) -> None:
    """Rebuild the leaderboard and write the suite's scorecard.

    Parameters
    ----------
    context
        Of the op.
    store
        Where artifacts lie.
    plan
        The suite and its cells.
    """
    _STAGES.resolve_job_def("refresh_leaderboard").execute_in_process(
        instance=context.instance, run_config=quiet_logs(), tags=host_tags()
    )
    files = write_scorecard(store, suite_scorecard(store, plan.suite))
    context.add_output_metadata(
        {
            "cells": len(plan.cells),
            "scorecard": dg.MetadataValue.url(page_url(store, files["scorecard"])),
            "scorecard_page": dg.MetadataValue.url(page_url(store, files["scorecard_page"])),
        }
    )


@dg.job(
    executor_def=dg.in_process_executor, description="A whole suite (default: the embedded demo) in one run."
)
def demo() -> None:
    """Run a suite."""
    run_suite()
