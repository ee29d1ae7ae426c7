"""Asset `report`: the published run of a cell."""

from pathlib import Path

import dagster as dg

from perturbfm_assets.assets.cell import Cell, each_seed
from perturbfm_assets.assets.metric_panel import metric_panel
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_core import pipeline, schema
from perturbfm_core.reports.plots import headline_plot
from perturbfm_core.store import read_json


@dg.asset(
    partitions_def=grid_partitions,
    deps=[metric_panel],
    group_name="evaluation",
    kinds={"python", "html"},
    owners=["team:perturbfm"],
)
def report(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """The run directory with its report, published by one rename."""
    return each_seed(context, store, pipeline.render, _describe)


def _describe(cell: Cell, paths: list[Path]) -> dict[str, object]:
    config = read_json(paths[-1] / schema.CONFIG_FILE)
    metrics = read_json(paths[-1] / schema.METRICS_FILE)
    plot = headline_plot(metrics)
    return {
        "run_dir": dg.MetadataValue.path(paths[-1].resolve()),
        "report": dg.MetadataValue.url((paths[-1].resolve() / schema.REPORT_FILE).as_uri()),
        "run_ids": [p.name for p in paths],
        "flags": dg.MetadataValue.json(config["flags"]),
        "plot": dg.MetadataValue.md(f"![by perturbation]({plot})" if plot else "undefined everywhere"),
    }
