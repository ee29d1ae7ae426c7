"""Asset `fit_inputs`: what a fit on a split may read. It stands in the lineage and is never launched."""

import dagster as dg

from perturbfm_assets.assets.gene_graph import gene_graph
from perturbfm_assets.assets.pretrained_encoder import pretrained_encoder
from perturbfm_assets.assets.split import split
from perturbfm_assets.partitions import split_partitions

# Dagster warns that a launch may fail wherever a parent that can be launched has not been, and knows no optional parent.
# A fit makes or loads what it needs by its content, so none of the three has to be launched before it.
fit_inputs = dg.AssetSpec(
    "fit_inputs",
    deps=[split, gene_graph, pretrained_encoder],
    partitions_def=split_partitions,
    group_name="models",
    owners=["team:perturbfm"],
    description=(
        "What a fit may read: the frozen split, the co-expression graph of its train rows, an encoder pre-trained on them. "
        "Nothing has to be launched first: a fit makes or loads what it needs by its content."
    ),
)
