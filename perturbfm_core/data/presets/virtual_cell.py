"""Preset for the files of the Virtual Cell Challenge."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import filled_column, needed_column, preset


@preset("vcc", "Virtual Cell Challenge file: target_gene, batch; raw counts")
def vcc_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of a file of the Virtual Cell Challenge, 2025 or 2026.

    ``target_gene`` (or ``target``) names the gene that is switched off (CRISPRi), ``non-targeting`` the controls;
    ``batch`` is the batch; the context is a column of cell types or lines if there is one, since a file of one line has
    none; values are raw counts.

    Raises
    ------
    DatasetError
        If a required column is missing.
    """
    obs = read_obs(path)
    return ColumnMapping(
        pert_col=needed_column(obs, ("target_gene", "target"), "perturbation", "Virtual Cell Challenge"),
        context_col=filled_column(obs, ("cell_line", "cell_type", "context")),
        batch_col=filled_column(obs, ("batch", "batch_var")),
        control_label=("non-targeting",),
        modality="CRISPRi",
        space="counts",
    )
