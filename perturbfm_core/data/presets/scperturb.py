"""Preset for scPerturb files."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.importing import ColumnMapping
from perturbfm_core.data.preset import (
    complete_columns,
    described_column,
    first_complete,
    needed_column,
    preset,
)
from perturbfm_core.errors import DatasetError


@preset(
    "scperturb",
    "scPerturb file: perturbation, cell line or type, dose, time; raw counts",
    licence="CC BY 4.0",
)
def scperturb_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of an scPerturb file.

    ``perturbation`` has parts joined by ``_`` and the control label ``control``; the cell line or cell type
    is the context; ``X`` holds raw counts; dose with its unit, time, batch and perturbation type are used if
    complete.

    Raises
    ------
    DatasetError
        If a required column is missing or incomplete, or doses are in several units.
    """
    obs = read_obs(path)
    columns = complete_columns(obs)
    pert = needed_column(columns, ("perturbation",), "perturbation", "scPerturb")
    dose, unit = described_column(obs, pert, "dose_value"), ""
    if dose is not None and "dose_unit" in obs:
        treated = obs.loc[(obs[pert] != "control").to_numpy(), "dose_unit"]
        units = sorted({str(u) for u in treated.dropna()})
        if len(units) > 1:
            msg = f"doses are in several units ({', '.join(units)}); convert them to one, or import part of the file"
            raise DatasetError(msg)
        unit = "".join(units)
    return ColumnMapping(
        pert_col=pert,
        context_col=needed_column(
            columns, ("cell_line", "celltype", "cell_type", "tissue_type"), "context", "scPerturb"
        ),
        batch_col=first_complete(columns, ("batch", "gemgroup", "replicate")),
        control_label="control",
        dose_col=dose,
        dose_unit=unit,
        time_col=described_column(obs, pert, "time"),
        modality_col=described_column(obs, pert, "perturbation_type"),
        separators="_",
        space="counts",
    )
