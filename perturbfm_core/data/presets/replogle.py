"""Preset for the single-cell files of Replogle et al. 2022."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_obs, read_var
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import filled_column, naming_column, needed_column, preset


@preset(
    "replogle",
    "Replogle 2022 file (..._raw_singlecell_01.h5ad): gene, gem_group; raw counts",
    licence="CC BY 4.0",
)
def replogle_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of a single-cell file of Replogle et al. 2022.

    ``gene`` names the gene that is switched off (CRISPRi), ``non-targeting`` the controls; ``gem_group`` is the batch.
    A file is of one cell line, so it needs no column of contexts. Genes are called by ``gene_name``, those
    without one of their own by their Ensembl ids. The normalised files hold z-scores: give ``--space zscore``.

    Raises
    ------
    DatasetError
        If a required column is missing.
    """
    obs = read_obs(path)
    return ColumnMapping(
        pert_col=needed_column(obs, ("gene",), "perturbation", "Replogle"),
        context_col=filled_column(obs, ("cell_line", "cell_type")),
        batch_col=filled_column(obs, ("gem_group",)),
        control_label=("non-targeting",),
        modality="CRISPRi",
        separators=(),
        gene_col=naming_column(read_var(path), ("gene_name",)),
        space="counts",
    )
