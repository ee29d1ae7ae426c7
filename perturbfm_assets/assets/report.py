"""Asset `report`: the published run of an experiment."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from perturbfm_assets.assets.experiments import each_seed
from perturbfm_assets.assets.metric_panel import metric_panel
from perturbfm_assets.links import page_url
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.readable import headline_table, not_applicable_table
from perturbfm_assets.resources import StoreResource
from perturbfm_core import schema
from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL, headline_value
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.run import run
from perturbfm_core.pipeline.split import stored_stats
from perturbfm_core.reports.plots.condition import headline_plot
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_record import read_run_record

AGAIN_TAG = "perturbfm/again"


@dg.asset(
    partitions_def=grid_partitions,
    deps=[metric_panel],
    group_name="evaluation",
    metadata={"not_applicable": not_applicable_table()},
    kinds={"python", "html"},
    owners=["team:perturbfm"],
)
def report(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """The run directory with its report, published by one rename; the run of the same inputs and code is found.

    The run tag ``perturbfm/again: "true"`` publishes a new one.
    """
    again = context.run.tags.get(AGAIN_TAG, "").lower() == "true"
    return each_seed(context, store, lambda e: run(e, again=again), _describe, version=_version)


def _version(path: Path) -> str:
    """Return the key of the run's scores: the leaderboard is stale once they change."""
    objects = read_run_record(path).objects
    return path.name if objects is None else objects.scores


def _describe(experiments: list[Experiment], paths: list[Path]) -> dict[str, Any]:
    record = read_run_record(paths[-1])
    metrics = read_json(paths[-1] / schema.METRICS_FILE)
    plot = headline_plot(_by_perturbation(paths[-1]))
    store = experiments[-1].store
    value = headline_value(metrics)
    return {
        "headline": dg.MetadataValue.text("undefined") if value is None else round(value, 4),
        "scores": headline_table(metrics, stored_stats(store, experiments[-1].split)),
        "report": dg.MetadataValue.url(page_url(store, paths[-1] / schema.REPORT_FILE)),
        "run_dir": dg.MetadataValue.path(paths[-1].resolve()),
        "run_ids": [p.name for p in paths],
        "flags": dg.MetadataValue.json(record.flags.model_dump(mode="json")),
        "plot": dg.MetadataValue.md(f"![by perturbation]({plot})" if plot else "undefined everywhere"),
    }


def _by_perturbation(run_dir: Path) -> dict[str, float]:
    """Return {perturbation: value of the headline metric} of a run."""
    wanted = (("panel", HEADLINE_PANEL), ("metric", HEADLINE_METRIC), ("scope", "perturbation"))
    table = pd.read_parquet(
        run_dir / schema.SCORES_FILE,
        columns=["key", "value"],
        filters=[(column, "==", value) for column, value in wanted],
    )
    return dict(zip(table["key"].astype(str), table["value"].astype(float), strict=True))
