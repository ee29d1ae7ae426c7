"""Preset for scPerturb files."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import described_column, filled_column, needed_column, preset

_CONTROLS = ("control",)


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
    any row has them.

    Raises
    ------
    DatasetError
        If a required column is missing.
    """
    obs = read_obs(path)
    pert = needed_column(obs, ("perturbation",), "perturbation", "scPerturb")
    dose = described_column(obs, pert, _CONTROLS, ["dose_value"])
    return ColumnMapping(
        pert_col=pert,
        context_col=needed_column(
            obs, ("cell_line", "celltype", "cell_type", "tissue_type"), "context", "scPerturb"
        ),
        batch_col=filled_column(obs, ("batch", "gemgroup", "replicate")),
        control_label=_CONTROLS,
        dose_col=dose,
        dose_unit_col=None if dose is None else described_column(obs, pert, _CONTROLS, ["dose_unit"]),
        time_col=described_column(obs, pert, _CONTROLS, ["time"]),
        modality_col=described_column(obs, pert, _CONTROLS, ["perturbation_type"]),
        separators=("_",),
        split_known_only=True,
        space="counts",
    )
