"""Asset `report`: the published run of an experiment."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from perturbfm_assets.assets.experiments import each_seed
from perturbfm_assets.assets.metric_panel import metric_panel
from perturbfm_assets.links import page_url
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.readable import headline_table, no_schedule, not_applicable_table
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import table
from perturbfm_core import schema
from perturbfm_core.config import content_hash
from perturbfm_core.leaderboard.headline import HEADLINE_METRIC, HEADLINE_PANEL, headline_value
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.run import run
from perturbfm_core.pipeline.split import stored_stats
from perturbfm_core.reports.plots.condition import headline_plot
from perturbfm_core.store.artifacts import RUN_ID_PATTERN, ArtifactStore
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_record import read_run_record

AGAIN_TAG = "perturbfm/again"
# The asset that the leaderboard depends on.
RUNS = dg.AssetKey("published_runs")


@dg.asset(
    partitions_def=grid_partitions,
    deps=[metric_panel],
    group_name="evaluation",
    metadata={"not_applicable": not_applicable_table(), **no_schedule()},
    kinds={"python", "html"},
    owners=["team:perturbfm"],
)
def report(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """The run directory with its report, published by one rename; the run of the same inputs and code is found.

    The run tag ``perturbfm/again: "true"`` publishes a new one.
    """
    text = context.run.tags.get(AGAIN_TAG, "false").strip().lower()
    if text not in ("true", "false"):
        message = f"run tag {AGAIN_TAG} is {text!r}; it is true, for a new run, or false"
        raise dg.Failure(message)
    again = text == "true"
    made = each_seed(context, store, lambda e: run(e, again=again), _describe, version=_version)
    context.log_event(observed_runs(store.open()))
    return made


def observed_runs(store: ArtifactStore) -> dg.AssetObservation:
    """Return what asset `published_runs` is now: of another version once a run was published or removed."""
    names = sorted(p.name for p in store.runs.glob("*_*_*") if RUN_ID_PATTERN.match(p.name))
    return dg.AssetObservation(RUNS, tags={DATA_VERSION_TAG: content_hash(names)[:16]})


def _version(path: Path) -> str:
    """Return the key of the run's scores."""
    objects = read_run_record(path).objects
    return path.name if objects is None else objects.scores


def _describe(experiments: list[Experiment], paths: list[Path]) -> dict[str, Any]:
    first, store = paths[0], experiments[0].store
    record = read_run_record(first)
    metrics = read_json(first / schema.METRICS_FILE)
    plot = headline_plot(_by_perturbation(first))
    value = headline_value(metrics)
    return {
        "headline": dg.MetadataValue.text("undefined") if value is None else round(value, 4),
        **_by_seed(experiments, paths),
        "scores": headline_table(metrics, stored_stats(store, experiments[0].split)),
        "report": dg.MetadataValue.url(page_url(store, first / schema.REPORT_FILE)),
        "run_dir": dg.MetadataValue.path(first.resolve()),
        "run_ids": [p.name for p in paths],
        "flags": dg.MetadataValue.json(record.flags.model_dump(mode="json")),
        "plot": dg.MetadataValue.md(f"![by perturbation]({plot})" if plot else "undefined everywhere"),
    }


def _by_seed(experiments: list[Experiment], paths: list[Path]) -> dict[str, Any]:
    """Return the headline of every seed and the link to its report, nothing where there is one seed."""
    if len(paths) == 1:
        return {}
    rows = []
    for e, path in zip(experiments, paths, strict=True):
        value = headline_value(read_json(path / schema.METRICS_FILE))
        shown = "undefined" if value is None else value
        rows.append([e.config.seed, shown, page_url(e.store, path / schema.REPORT_FILE)])
    return {"by_seed": dg.MetadataValue.md(table(["seed", "headline", "report"], rows))}


def _by_perturbation(run_dir: Path) -> dict[str, float]:
    """Return {perturbation: value of the headline metric} of a run."""
    wanted = (("panel", HEADLINE_PANEL), ("metric", HEADLINE_METRIC), ("scope", "perturbation"))
    table = pd.read_parquet(
        run_dir / schema.SCORES_FILE,
        columns=["key", "value"],
        filters=[(column, "==", value) for column, value in wanted],
    )
    return dict(zip(table["key"].astype(str), table["value"].astype(float), strict=True))
