"""Whole suites in one run: job `demo`, which records every stage as a materialisation of its asset."""

import dagster as dg

from perturbfm_assets import assets
from perturbfm_assets.jobs import (
    benchmark,
    build_graph,
    make_dataset,
    quiet_logs,
    refresh_leaderboard,
    verify_split,
)
from perturbfm_assets.launcher import host_tags
from perturbfm_assets.partitions import CATALOG, SPLITS, grid_key
from perturbfm_assets.resources import StoreResource
from perturbfm_core.graphs.side_info import COEXPRESSION
from perturbfm_core.pipeline.dataset import ensure_dataset, open_dataset
from perturbfm_core.pipeline.opening import needs_of
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.store.artifacts import ArtifactStore

# The jobs that the op below runs in its own process, resolved here.
_STAGES = dg.Definitions(
    assets=dg.load_assets_from_package_module(assets),
    jobs=[benchmark, build_graph, make_dataset, refresh_leaderboard, verify_split],
    resources={"store": StoreResource()},
)


class SuiteConfig(dg.Config):
    """Which suite of the catalog to run."""

    suite: str = "demo"


def suite_split_keys(store: ArtifactStore, suite: str) -> list[str]:
    """Return the grid's split keys of a suite; its data sets are made if they are missing."""
    chosen = CATALOG.suite(suite)
    keys: list[str] = []
    for group in chosen.grid:
        ds = open_dataset(ensure_dataset(store, CATALOG.dataset(group.dataset)))
        keys += [split.definition.key for spec in group.splits for split in freeze(ds, spec)]
    missing = [k for k in keys if k not in SPLITS]
    if missing:
        message = f"splits {missing} of suite {suite!r} are not frozen yet; run `perturbfm demo --suite {suite}` and reload"
        raise dg.Failure(message)
    return keys


@dg.op(
    description="Materialise the data sets, splits and experiments of a suite, each as its own run, then the leaderboard."
)
def run_suite(context: dg.OpExecutionContext, config: SuiteConfig) -> None:
    """Run every stage of a suite in this process."""
    suite = CATALOG.suite(config.suite)
    splits = suite_split_keys(ArtifactStore(), config.suite)
    todo: list[tuple[str, str]] = [("make_dataset", group.dataset) for group in suite.grid]
    todo += [("verify_split", key) for key in splits]
    if any(COEXPRESSION in needs_of(CATALOG.model(m)).graphs for m in suite.models):
        todo += [("build_graph", key) for key in splits]
    todo += [("benchmark", grid_key(model, key)) for key in splits for model in suite.models]
    for i, (job, key) in enumerate(todo):
        context.log.info(f"{i + 1} of {len(todo)}: {job} {key}")
        _STAGES.resolve_job_def(job).execute_in_process(
            instance=context.instance, partition_key=key, run_config=quiet_logs(), tags=host_tags()
        )
    _STAGES.resolve_job_def("refresh_leaderboard").execute_in_process(
        instance=context.instance, run_config=quiet_logs(), tags=host_tags()
    )


@dg.job(
    executor_def=dg.in_process_executor, description="A whole suite (default: the embedded demo) in one run."
)
def demo() -> None:
    """Run a suite."""
    run_suite()
