"""Asset `trained_model`: a model fitted on the train rows of a split."""

from typing import Any

import dagster as dg

from perturbfm_assets.assets.experiments import each_seed
from perturbfm_assets.assets.fit_inputs import fit_inputs
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import rounded
from perturbfm_core import schema
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.trained_model import FIT_FILE, fit
from perturbfm_core.store.artifacts import Artifact
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.code import code_of


@dg.asset(
    partitions_def=grid_partitions,
    deps=[fit_inputs],
    group_name="models",
    kinds={"python", "safetensors"},
    owners=["team:perturbfm"],
    # Of the stage; a changed model changes the keys of its own fits, and so their data versions.
    code_version=code_of(fit.__module__).digest[:12],
)
def trained_model(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """A fitted model per seed, under the key of its data, split, configuration and code."""
    return each_seed(context, store, fit, _describe)


def _describe(experiments: list[Experiment], made: list[Artifact]) -> dict[str, Any]:
    fits = [read_json(artifact.path / FIT_FILE) for artifact in made]
    training = read_json(made[0].path / schema.MODEL_META_FILE)["training"]
    return {
        "model": experiments[0].config.model,
        "config_hash": experiments[0].config.config_hash,
        "object": [artifact.key for artifact in made],
        "reused": all(artifact.reused for artifact in made),
        "fit_seconds": round(sum(info["fit_s"] for info in fits), 2),
        "training": dg.MetadataValue.json(rounded(training)),
    }
