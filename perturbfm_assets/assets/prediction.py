"""Asset `prediction`: the predicted deltas of a split's test conditions."""

from typing import Any

import dagster as dg
import numpy as np

from perturbfm_assets.assets.experiments import each_seed
from perturbfm_assets.assets.trained_model import trained_model
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import verdict
from perturbfm_core import schema
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.prediction import predict
from perturbfm_core.pipeline.trained_model import fit
from perturbfm_core.store.artifacts import Artifact
from perturbfm_core.store.code import code_of


@dg.asset(
    partitions_def=grid_partitions,
    deps=[trained_model],
    group_name="models",
    kinds={"python", "numpy"},
    owners=["team:perturbfm"],
    code_version=code_of(predict.__module__).digest[:12],
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
    return each_seed(context, store, lambda e: predict(e, fit(e)), _describe, _check, ("covers_split",))


def _describe(experiments: list[Experiment], made: list[Artifact]) -> dict[str, Any]:
    first = read_prediction(made[0].path / schema.PREDICTIONS_FILE)
    return {
        "object": [artifact.key for artifact in made],
        "conditions": len(first.mean),
        "rows": len(first.idx),
        "genes": first.mean.shape[1],
    }


def _check(experiments: list[Experiment], made: list[Artifact]) -> list[dg.AssetCheckResult]:
    rows = experiments[0].split.rows(experiments[0].dataset, "test")
    missing, finite = 0, True
    for artifact in made:
        found = read_prediction(artifact.path / schema.PREDICTIONS_FILE)
        missing += len(np.setdiff1d(rows, found.idx))
        finite = finite and bool(np.isfinite(found.mean).all() and np.isfinite(found.var).all())
    problems = [f"{missing} test rows are not predicted"] if missing else []
    problems += [] if finite else ["some values are not finite"]
    return [verdict("covers_split", problems, {"missing_rows": missing, "finite": finite})]
