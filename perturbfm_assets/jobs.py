"""Jobs: one cell of the grid, the leaderboard, and whole suites."""

import dagster as dg

from perturbfm_assets.assets.dataset import dataset
from perturbfm_assets.assets.gene_graph import gene_graph
from perturbfm_assets.assets.leaderboard import leaderboard
from perturbfm_assets.assets.metric_panel import metric_panel
from perturbfm_assets.assets.prediction import prediction
from perturbfm_assets.assets.report import report
from perturbfm_assets.assets.split import split
from perturbfm_assets.assets.trained_model import trained_model
from perturbfm_assets.partitions import CATALOG, SPLITS
from perturbfm_core import pipeline
from perturbfm_core.graphs.knowledge import COEXPRESSION
from perturbfm_core.splits.freeze import freeze

# A whole cell runs in one process: starting one per step costs more than most baselines.
benchmark = dg.define_asset_job(
    "benchmark",
    selection=dg.AssetSelection.assets(trained_model, prediction, metric_panel, report),
    executor_def=dg.in_process_executor,
    description="One cell of the grid: fit, predict, score, report. Launch it for many partitions as a backfill.",
)

refresh_leaderboard = dg.define_asset_job(
    "refresh_leaderboard",
    selection=dg.AssetSelection.assets(leaderboard),
    executor_def=dg.in_process_executor,
    description="Rebuild the leaderboard from all complete runs.",
)


make_dataset = dg.define_asset_job(
    "make_dataset",
    selection=dg.AssetSelection.assets(dataset),
    executor_def=dg.in_process_executor,
    description="One data set of the catalog, made if it is missing, and checked.",
)

verify_split = dg.define_asset_job(
    "verify_split",
    selection=dg.AssetSelection.assets(split),
    executor_def=dg.in_process_executor,
    description="One frozen split, verified against its data and audited.",
)

build_graph = dg.define_asset_job(
    "build_graph",
    selection=dg.AssetSelection.assets(gene_graph),
    executor_def=dg.in_process_executor,
    description="The co-expression graph of one split's train rows.",
)


class SuiteConfig(dg.Config):
    """Which suite of the catalog to run."""

    suite: str = "demo"


def quiet_logs(level: str = "WARNING") -> dict:
    """Return the run configuration that keeps events below `level` off the console (the UI has them all)."""
    return {"loggers": {"console": {"config": {"log_level": level}}}}


def suite_split_keys(store, suite: str) -> list[str]:
    """Return the grid's split keys of a suite; its data sets are made if they are missing."""
    chosen, keys = CATALOG.suite(suite), []
    for group in chosen.grid:
        ds = pipeline.open_dataset(pipeline.ensure_dataset(store, CATALOG.dataset(group.dataset)))
        keys += [frozen.split.key for spec in group.splits for frozen in freeze(ds, spec)]
    missing = [k for k in keys if k not in SPLITS]
    if missing:
        message = f"splits {missing} of suite {suite!r} are not frozen yet; run `perturbfm demo --suite {suite}` and reload"
        raise dg.Failure(message)
    return keys


@dg.op(
    description="Materialise the data sets, splits and cells of a suite, each as its own run, then the leaderboard."
)
def run_suite(context: dg.OpExecutionContext, config: SuiteConfig) -> None:
    """Run every stage of a suite in this process, recorded as materialisations of the assets."""
    from perturbfm_assets.definitions import defs
    from perturbfm_assets.partitions import grid_key
    from perturbfm_core.store import ArtifactStore

    suite = CATALOG.suite(config.suite)
    splits = suite_split_keys(ArtifactStore(), config.suite)
    todo = [("make_dataset", group.dataset) for group in suite.grid]
    todo += [("verify_split", key) for key in splits]
    if any(COEXPRESSION in pipeline.needs_of(CATALOG.model(m)).graphs for m in suite.models):
        todo += [("build_graph", key) for key in splits]
    todo += [("benchmark", grid_key(model, key)) for key in splits for model in suite.models]
    for i, (job, key) in enumerate(todo):
        context.log.info(f"{i + 1} of {len(todo)}: {job} {key}")
        defs.resolve_job_def(job).execute_in_process(
            instance=context.instance, partition_key=key, run_config=quiet_logs()
        )
    defs.resolve_job_def("refresh_leaderboard").execute_in_process(
        instance=context.instance, run_config=quiet_logs()
    )


@dg.job(
    executor_def=dg.in_process_executor, description="A whole suite (default: the embedded demo) in one run."
)
def demo():
    """Run a suite."""
    run_suite()
