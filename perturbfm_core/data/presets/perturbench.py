"""Preset for preprocessed PerturBench files."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import complete_columns, described_column, needed_column, preset


@preset("perturbench", "PerturBench file: condition, cell_type, treatment; log1p values")
def perturbench_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of a preprocessed PerturBench file.

    ``condition`` holds the perturbation, with parts joined by ``+`` and the control label ``control``;
    ``cell_type`` is the context; ``treatment`` is a further covariate if it varies; values are log1p of
    normalised counts.
    """
    obs = read_obs(path)
    columns = complete_columns(obs)
    pert = needed_column(columns, ("condition", "perturbation"), "perturbation", "PerturBench")
    varies = "treatment" in columns and not columns["treatment"] and len(set(obs["treatment"])) > 1
    return ColumnMapping(
        pert_col=pert,
        context_col=needed_column(columns, ("cell_type", "cell_line", "celltype"), "context", "PerturBench"),
        control_label=("control",),
        modality_col=described_column(obs, pert, "perturbation_type"),
        covariate_cols=("treatment",) if varies else (),
        space="log1p",
    )
