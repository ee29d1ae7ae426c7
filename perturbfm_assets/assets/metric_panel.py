"""Asset `metric_panel`: every panel on a cell's prediction."""

import dagster as dg
import pandas as pd

from perturbfm_assets.assets.cell import Cell, each_seed
from perturbfm_assets.assets.prediction import prediction
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import table
from perturbfm_core import pipeline, schema
from perturbfm_core.evaluation import PANELS
from perturbfm_core.provenance import scoring_code


@dg.asset(
    partitions_def=grid_partitions,
    deps=[prediction],
    group_name="evaluation",
    kinds={"python", "parquet"},
    owners=["team:perturbfm"],
    code_version=scoring_code()[:12],
    check_specs=[
        dg.AssetCheckSpec(
            "panel_complete",
            asset="metric_panel",
            blocking=True,
            description="No metric is missing without a reason.",
        ),
    ],
)
def metric_panel(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """All metrics, per condition and averaged; undefined ones keep their reason."""
    return each_seed(context, store, pipeline.score, _describe, _check, ("panel_complete",))


def _scores(stage: pipeline.Stage) -> pd.DataFrame:
    return pd.read_parquet(stage.path / schema.SCORES_FILE)


def _describe(cell: Cell, stages: list[pipeline.Stage]) -> dict[str, object]:
    frame = _scores(stages[0])
    rows = frame[frame["scope"] == "global"]
    shown = [
        [r.panel, r.metric, r.value if r.status == "ok" else "undefined", r.n, r.reason or ""]
        for r in rows.itertuples()
    ]
    headlines = {}
    for name, panel in PANELS.items():
        value = rows[(rows["panel"] == name) & (rows["metric"] == panel.headline) & (rows["status"] == "ok")][
            "value"
        ]
        headlines |= {f"{name}.{panel.headline}": float(v) for v in value}
    return {
        "object": [s.key for s in stages],
        "scores": dg.MetadataValue.md(table(["panel", "metric", "value", "n", "note"], shown)),
        **headlines,
    }


def _check(cell: Cell, stages: list[pipeline.Stage]) -> list[dg.AssetCheckResult]:
    wanted = {(name, m.name) for name, panel in PANELS.items() for m in panel.metrics}
    missing, unexplained = set(), 0
    for stage in stages:
        frame = _scores(stage)
        missing |= wanted - set(zip(frame["panel"], frame["metric"], strict=True))
        unexplained += int(((frame["status"] != "ok") & frame["reason"].isna()).sum())
    names = [f"{p}.{m}" for p, m in sorted(missing)]
    return [
        dg.AssetCheckResult(
            passed=not missing and not unexplained,
            check_name="panel_complete",
            metadata={"missing": names, "undefined_without_reason": unexplained},
        )
    ]
