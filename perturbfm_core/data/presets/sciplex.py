"""Preset for sci-Plex files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import described_column, filled_column, needed_column, preset

_VEHICLES = ("Vehicle", "vehicle", "control", "DMSO")


@preset("sciplex", "sci-Plex file: product_name, cell_type, dose in nM, time_point in h; raw counts")
def sciplex_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of a sci-Plex file.

    ``product_name`` (or ``treatment``, ``condition``) is the drug, whose name is never parted, ``Vehicle`` the controls;
    ``cell_type`` (or ``cell_line``) the context; ``dose`` is in nM unless ``dose_unit`` says otherwise, ``time_point``
    in hours; values are raw counts.

    Raises
    ------
    DatasetError
        If a required column is missing.
    """
    obs = read_obs(path)
    drug = needed_column(obs, ("product_name", "treatment", "condition"), "drug", "sci-Plex")
    vehicles = _vehicles(obs[drug])
    dose = described_column(obs, drug, vehicles, ["dose", "dose_value"])
    # Named even if only vehicles have a unit: nM would be a guess that is wrong by a factor.
    unit = filled_column(obs, ["dose_unit"]) if dose else None
    time = described_column(obs, drug, vehicles, ["time_point", "time"])
    return ColumnMapping(
        pert_col=drug,
        context_col=needed_column(obs, ("cell_type", "cell_line"), "context", "sci-Plex"),
        batch_col=filled_column(obs, ("replicate", "batch", "plate")),
        control_label=vehicles,
        dose_col=dose,
        dose_unit_col=unit,
        dose_unit="nM" if dose and not unit else "",
        time_col=time,
        time_unit="h" if time else "",
        modality="drug",
        separators=(),
        space="counts",
    )


def _vehicles(labels: pd.Series) -> tuple[str, ...]:
    found = {str(x) for x in labels.unique()}
    return tuple(name for name in _VEHICLES if name in found) or _VEHICLES[:1]
