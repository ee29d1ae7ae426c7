"""Asset `gene_graph`: the co-expression graph of a split's train rows."""

import dagster as dg

from perturbfm_assets.assets.split import split
from perturbfm_assets.partitions import SPLITS, split_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_core import pipeline, schema
from perturbfm_core.graphs.io import read_graph
from perturbfm_core.graphs.summary import coverage, summary
from perturbfm_core.provenance import graph_code
from perturbfm_core.splits.folder import SplitFolder


@dg.asset(
    partitions_def=split_partitions,
    deps=[split],
    group_name="splits",
    kinds={"python", "numpy"},
    owners=["team:perturbfm"],
    code_version=graph_code()[:12],
    check_specs=[
        dg.AssetCheckSpec(
            "split_bound",
            asset="gene_graph",
            blocking=True,
            description="The graph names the split whose train rows it was built from.",
        ),
    ],
)
def gene_graph(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
    """Genes that vary together over train rows; a fit that needs it finds it, or builds it, by the same key."""
    home = store.open()
    frozen = SplitFolder(home.split_dir).load(SPLITS[context.partition_key].hash)
    ds = pipeline.dataset_of(home, frozen)
    stage = pipeline.build_graph(home, ds, frozen, context.log.info)
    graph = read_graph(stage.path / schema.GRAPH_FILE)
    shown = {"object": stage.key, "reused": stage.reused, **summary(graph), **coverage(graph, ds)}
    return dg.MaterializeResult(
        metadata=shown,
        check_results=[dg.AssetCheckResult(passed=graph.split_hash == frozen.hash, check_name="split_bound")],
        data_version=dg.DataVersion(graph.sha256),
    )
