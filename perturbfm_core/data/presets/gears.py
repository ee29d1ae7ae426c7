"""Preset for files in the layout of GEARS."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_obs, read_var
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import naming_column, needed_column, preset


@preset("gears", "GEARS file (perturb_processed.h5ad): condition such as A+ctrl, cell_type; log1p values")
def gears_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of a file in the layout of GEARS.

    ``condition`` is ``ctrl`` for controls, ``A+ctrl`` or ``ctrl+A`` for a single gene, ``A+B`` for two; ``cell_type``
    is the context; genes are called by ``gene_name``, or the index where that is not their own; values are log1p of normalised counts. Lists of differentially
    expressed genes in ``uns`` are not read.

    Raises
    ------
    DatasetError
        If a required column is missing.
    """
    obs = read_obs(path)
    return ColumnMapping(
        pert_col=needed_column(obs, ("condition",), "perturbation", "GEARS"),
        context_col=needed_column(obs, ("cell_type", "cell_line"), "context", "GEARS"),
        control_label=("ctrl",),
        gene_col=naming_column(read_var(path), ("gene_name",)),
        space="log1p",
    )
