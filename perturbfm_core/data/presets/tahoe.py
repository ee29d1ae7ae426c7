"""Preset for the Parquet shards of Tahoe-100M."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_var
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import naming_column, preset
from perturbfm_core.data.tahoe_shards import tahoe_h5ad


@preset(
    "tahoe",
    "Tahoe-100M Parquet shard, or a folder of some with the tables of metadata/; raw counts",
    licence="CC0-1.0",
    reader=tahoe_h5ad,
)
def tahoe_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of the h5ad file that is made of Tahoe's shards.

    ``drug`` is the drug, whose name is never parted, ``DMSO_TF`` the controls; dose and unit are those of the sample; the
    cell line is the context, by its name where ``cell_line_metadata.parquet`` is there; ``plate`` is the batch. Genes are
    called by their symbols, those without one of their own by their Ensembl ids; values are raw counts.
    """
    return ColumnMapping(
        pert_col="drug",
        context_col="cell_line",
        batch_col="plate",
        control_label=("DMSO_TF",),
        dose_col="dose",
        dose_unit_col="dose_unit",
        modality="drug",
        separators=(),
        gene_col=naming_column(read_var(path), ("gene_symbol",)),
        space="counts",
    )
