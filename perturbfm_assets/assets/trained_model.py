"""Asset `trained_model`: a model fitted on the train rows of a split."""

import dagster as dg

from perturbfm_assets.assets.cell import Cell, each_seed
from perturbfm_assets.assets.gene_graph import gene_graph
from perturbfm_assets.assets.pretrained_encoder import pretrained_encoder
from perturbfm_assets.assets.split import split
from perturbfm_assets.partitions import grid_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_core import pipeline, schema
from perturbfm_core.provenance import numeric_code
from perturbfm_core.store import read_json


@dg.asset(
    partitions_def=grid_partitions,
    # For the lineage: a fit that needs graph or encoder makes or loads it by its content, so a cell runs alone.
    deps=[split, gene_graph, pretrained_encoder],
    group_name="models",
    kinds={"python", "safetensors"},
    owners=["team:perturbfm"],
    pool="torch",
    code_version=numeric_code()[:12],
)
def trained_model(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """A fitted model per seed, under the key of its data, split, configuration and code."""
    return each_seed(context, store, pipeline.fit, _describe)


def _describe(cell: Cell, stages: list[pipeline.Stage]) -> dict[str, object]:
    fits = [read_json(s.path / "fit.json") for s in stages]
    training = read_json(stages[0].path / schema.MODEL_META_FILE)["training"]
    return {
        "model": cell.entry.model,
        "config_hash": cell.configs[0].config_hash,
        "object": [s.key for s in stages],
        "reused": all(s.reused for s in stages),
        "fit_seconds": sum(f["fit_s"] for f in fits),
        "training": dg.MetadataValue.json(training),
    }
