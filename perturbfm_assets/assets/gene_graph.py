"""Asset `gene_graph`: the co-expression graph of a split's train rows."""

import dagster as dg

from perturbfm_assets.assets.split import split
from perturbfm_assets.partitions import split_of, split_partitions
from perturbfm_assets.resources import StoreResource
from perturbfm_assets.show import RunLog, partition_of, rounded
from perturbfm_core import schema
from perturbfm_core.graphs.coexpression import train_coexpression
from perturbfm_core.graphs.io import read_graph
from perturbfm_core.graphs.summary import coverage, summary
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.gene_graph import build_graph
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.code import code_of


@dg.asset(
    partitions_def=split_partitions,
    deps=[split],
    group_name="splits",
    kinds={"python", "numpy"},
    owners=["team:perturbfm"],
    code_version=code_of(train_coexpression.__module__).digest[:12],
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
    home = store.open(RunLog(context))
    split = SplitFolder(home.split_dir).load(split_of(partition_of(context)).hash)
    ds = dataset_of(home, split)
    stage = build_graph(home, ds, split, RunLog(context))
    graph = read_graph(stage.path / schema.GRAPH_FILE)
    shown = {"object": stage.key, "reused": stage.reused, **summary(graph), **coverage(graph, ds)}
    return dg.MaterializeResult(
        metadata=rounded(shown),
        check_results=[dg.AssetCheckResult(passed=graph.split_hash == split.hash, check_name="split_bound")],
        data_version=dg.DataVersion(graph.sha256),
    )
