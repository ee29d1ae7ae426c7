"""Preset for scPerturb files."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import (
    complete_columns,
    described_column,
    first_complete,
    needed_column,
    preset,
)


@preset(
    "scperturb",
    "scPerturb file: perturbation, cell line or type, dose, time; raw counts",
    licence="CC BY 4.0",
)
def scperturb_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of an scPerturb file.

    ``perturbation`` has parts joined by ``_`` and the control label ``control``; a label is parted only if all
    its parts are genes or perturbations, since guides and loci have ``_`` in their names; the cell line or cell type
    is the context; ``X`` holds raw counts; dose with its unit, time, batch and perturbation type are used if
    complete.

    Raises
    ------
    DatasetError
        If a required column is missing or incomplete.
    """
    obs = read_obs(path)
    columns = complete_columns(obs)
    pert = needed_column(columns, ("perturbation",), "perturbation", "scPerturb")
    dose = described_column(obs, pert, "dose_value")
    return ColumnMapping(
        pert_col=pert,
        context_col=needed_column(
            columns, ("cell_line", "celltype", "cell_type", "tissue_type"), "context", "scPerturb"
        ),
        batch_col=first_complete(columns, ("batch", "gemgroup", "replicate")),
        control_label=("control",),
        dose_col=dose,
        dose_unit_col=None if dose is None else described_column(obs, pert, "dose_unit"),
        time_col=described_column(obs, pert, "time"),
        modality_col=described_column(obs, pert, "perturbation_type"),
        separators=("_",),
        split_known_only=True,
        space="counts",
    )
