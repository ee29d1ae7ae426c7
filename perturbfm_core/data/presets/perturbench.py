"""Preset for preprocessed PerturBench files."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import described_column, matches_controls, needed_column, preset

_CONTROLS = ("control",)


@preset("perturbench", "PerturBench file: condition, cell_type, treatment; log1p values")
def perturbench_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of a preprocessed PerturBench file.

    ``condition`` holds the perturbation, with parts joined by ``+`` and the control label ``control``;
    ``cell_type`` is the context; ``treatment`` is a further covariate if it varies, and rows are matched to the controls
    of their treatment if each has some, since those of another may differ by it; values are log1p of normalised counts.

    Raises
    ------
    DatasetError
        If a required column is missing.
    """
    obs = read_obs(path)
    pert = needed_column(obs, ("condition", "perturbation"), "perturbation", "PerturBench")
    treatment = described_column(obs, pert, _CONTROLS, ["treatment"])
    context = needed_column(obs, ("cell_type", "cell_line", "celltype"), "context", "PerturBench")
    varies = treatment is not None and obs[treatment].nunique() > 1
    treated = ~obs[pert].isin(_CONTROLS).to_numpy()
    matched = varies and matches_controls(obs, (context, treatment), treated)
    return ColumnMapping(
        pert_col=pert,
        context_col=context,
        batch_col=treatment if matched else None,
        control_label=_CONTROLS,
        modality_col=described_column(obs, pert, _CONTROLS, ["perturbation_type"]),
        covariate_cols=("treatment",) if varies else (),
        space="log1p",
    )
