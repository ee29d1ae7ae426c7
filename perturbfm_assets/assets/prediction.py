"""Asset `prediction`: the predicted deltas of a split's test conditions."""

import dagster as dg
import numpy as np

from perturbfm_assets.assets.cell import Cell, each_seed
from perturbfm_assets.assets.trained_model import trained_model
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_core import pipeline, schema
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.provenance import numeric_code


@dg.asset(
    partitions_def=grid_partitions,
    deps=[trained_model],
    group_name="models",
    kinds={"python", "numpy"},
    owners=["team:perturbfm"],
    code_version=numeric_code()[:12],
    check_specs=[
        dg.AssetCheckSpec(
            "covers_split",
            asset="prediction",
            blocking=True,
            description="Every test row is predicted, with finite values.",
        ),
    ],
)
def prediction(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Mean and variance of the delta of every test condition."""
    return each_seed(context, store, pipeline.predict, _describe, _check, ("covers_split",))


def _describe(cell: Cell, stages: list[pipeline.Stage]) -> dict[str, object]:
    first = read_prediction(stages[0].path / schema.PREDICTIONS_FILE)
    return {
        "object": [s.key for s in stages],
        "conditions": len(first.mean),
        "rows": len(first.idx),
        "genes": first.mean.shape[1],
    }


def _check(cell: Cell, stages: list[pipeline.Stage]) -> list[dg.AssetCheckResult]:
    rows = cell.split.rows(cell.dataset, "test")
    missing, finite = 0, True
    for stage in stages:
        made = read_prediction(stage.path / schema.PREDICTIONS_FILE)
        missing += len(np.setdiff1d(rows, made.idx))
        finite = finite and bool(np.isfinite(made.mean).all() and np.isfinite(made.var).all())
    passed = missing == 0 and finite
    return [
        dg.AssetCheckResult(
            passed=passed, check_name="covers_split", metadata={"missing_rows": missing, "finite": finite}
        )
    ]
