"""Jobs: one entry on one split, single stages, the leaderboard."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from perturbfm_assets.assets.dataset import dataset
from perturbfm_assets.assets.gene_graph import gene_graph
from perturbfm_assets.assets.leaderboard import leaderboard
from perturbfm_assets.assets.leaderboard_page import leaderboard_page
from perturbfm_assets.assets.metric_panel import metric_panel
from perturbfm_assets.assets.prediction import prediction
from perturbfm_assets.assets.report import observed_runs, report
from perturbfm_assets.assets.split import split
from perturbfm_assets.assets.trained_model import trained_model
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog, table
from perturbfm_core.pipeline.inbox import scan_inbox
from perturbfm_core.pipeline.leaderboard import rank

# Statuses of runs that were launched and have not ended.
ON_THE_WAY = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)

# Of what is launched from the page of an asset, or as a backfill of assets.
ASSET_JOB = "__ASSET_JOB"

# All stages run in one process: starting one per step costs more than most baselines.
benchmark = dg.define_asset_job(
    "benchmark",
    selection=dg.AssetSelection.assets(trained_model, prediction, metric_panel, report),
    executor_def=dg.in_process_executor,
    description="One entry on one split: fit, predict, score, report. Launch it for many partitions as a backfill.",
)

refresh_leaderboard = dg.define_asset_job(
    "refresh_leaderboard",
    selection=dg.AssetSelection.assets(leaderboard, leaderboard_page),
    executor_def=dg.in_process_executor,
    description="Rebuild the leaderboard from all complete runs, and its page.",
)


make_dataset = dg.define_asset_job(
    "make_dataset",
    selection=dg.AssetSelection.assets(dataset),
    executor_def=dg.in_process_executor,
    description="One data set of the catalog, made if it is missing, and checked.",
)


@dg.op(description="Publish what lies in the inbox; a bad file moves to inbox/rejected/ with its reason.")
def take_submissions(context: dg.OpExecutionContext, store: StoreResource) -> None:
    """Publish the submissions of the inbox, and rank if there are new runs."""
    home = store.open(RunLog(context))
    outcomes = scan_inbox(home, RunLog(context))
    rows = [[o.name, o.status, o.run_id or "", o.reason or ""] for o in outcomes]
    for row in rows:
        context.log.info(" ".join(row))
    if any(o.status == "published" for o in outcomes):
        context.log_event(observed_runs(home))
        rank(home)
    counts = {
        s: sum(o.status == s for o in outcomes) for s in ("published", "existing", "rejected", "waiting")
    }
    context.add_output_metadata(
        {**counts, "submissions": dg.MetadataValue.md(table(["file", "status", "run", "reason"], rows))}
    )


@dg.job(
    executor_def=dg.in_process_executor,
    description="Predictions made elsewhere: publish what lies in the inbox, and rank it.",
)
def publish_submissions() -> None:
    """Publish the submissions of the inbox."""
    take_submissions()


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


def cells_of_asset_pages(
    instance: dg.DagsterInstance, statuses: Sequence[dg.DagsterRunStatus], limit: int | None = None
) -> list[dg.DagsterRun]:
    """Return the runs of whole cells that are no runs of `benchmark`: launched from the page of asset `report`.

    Parameters
    ----------
    instance, statuses
        Of Dagster, and of the runs.
    limit
        How many of the last runs of assets are looked at; all by default.
    """
    runs = instance.get_runs(dg.RunsFilter(job_name=ASSET_JOB, statuses=statuses), limit=limit)
    return [r for r in runs if r.asset_selection is None or report.key in r.asset_selection]


def quiet_logs(level: str = "WARNING") -> dict[str, Any]:
    """Return the run configuration that keeps events below `level` off the console (the UI has them all)."""
    return {"loggers": {"console": {"config": {"log_level": level}}}}
