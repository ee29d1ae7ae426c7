"""Asset `metric_panel`: every panel on an experiment's prediction."""

from typing import Any

import dagster as dg

from perturbfm_assets.assets.experiments import each_seed
from perturbfm_assets.assets.prediction import prediction
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import table, verdict
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.metric_panel import PanelScores, score
from perturbfm_core.pipeline.prediction import predict
from perturbfm_core.pipeline.trained_model import fit
from perturbfm_core.store.code import code_of


@dg.asset(
    partitions_def=grid_partitions,
    deps=[prediction],
    group_name="evaluation",
    kinds={"python", "parquet"},
    owners=["team:perturbfm"],
    code_version=code_of(score.__module__, *(m for _, p in PANELS.items() for m in p.modules)).digest[:12],
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
    return each_seed(context, store, _score, _describe, _check, ("panel_complete",))


def _score(e: Experiment) -> PanelScores:
    fitted = fit(e)
    return score(e, fitted, predict(e, fitted))


def _describe(experiments: list[Experiment], scored: list[PanelScores]) -> dict[str, Any]:
    frame = scored[0].table
    rows = frame[frame["scope"] == "global"]
    shown = [
        [r.panel, r.metric, r.value if r.status == "ok" else "undefined", r.n, r.reason or ""]
        for r in rows.itertuples()
    ]
    headlines: dict[str, float] = {}
    for name, panel in PANELS.items():
        mine = (rows["panel"] == name) & (rows["metric"] == panel.headline) & (rows["status"] == "ok")
        headlines |= {f"{name}.{panel.headline}": round(float(v), 4) for v in rows.loc[mine, "value"]}
    return {
        "object": [s.key for s in scored],
        "reused": all(s.reused for s in scored),
        "scores": dg.MetadataValue.md(table(["panel", "metric", "value", "n", "note"], shown)),
        **headlines,
    }


def _check(experiments: list[Experiment], scored: list[PanelScores]) -> list[dg.AssetCheckResult]:
    wanted = {(name, m.name) for name, panel in PANELS.items() for m in panel.metrics}
    missing: set[tuple[str, str]] = set()
    unexplained = 0
    for frame in (s.table for s in scored):
        missing |= wanted - set(zip(frame["panel"], frame["metric"], strict=True))
        is_undefined = (frame["status"] != "ok") | frame["value"].isna()
        unexplained += int((is_undefined & frame["reason"].isna()).sum())
    names = [f"{p}.{m}" for p, m in sorted(missing)]
    problems = [f"missing: {', '.join(names)}"] if names else []
    problems += [f"{unexplained} values are undefined and give no reason"] if unexplained else []
    metadata = {"missing": names, "undefined_without_reason": unexplained}
    return [verdict("panel_complete", problems, metadata)]
