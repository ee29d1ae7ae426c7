"""Column mappings of collections whose files share a layout."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from perturbfm_core.data.importing import ColumnMapping, read_obs
from perturbfm_core.errors import DatasetError


def _complete(obs: pd.DataFrame) -> dict[str, bool]:
    """Return {obs column: whether it has missing values}."""
    return {str(c): bool(obs[c].isna().any()) for c in obs.columns}


def _first(columns: dict[str, bool], names: tuple[str, ...]) -> str | None:
    """Return the first of `names` that is a column without missing values."""
    return next((n for n in names if n in columns and not columns[n]), None)


def _described(obs: pd.DataFrame, pert: str, name: str) -> str | None:
    """Return `name` if it describes every treated row, None if none; controls need no dose, time or type.

    Raises
    ------
    DatasetError
        If it describes only some: leaving it out would merge different treatments.
    """
    if name not in obs:
        return None
    missing = obs.loc[(obs[pert] != "control").to_numpy(), name].isna()
    if missing.all():
        return None
    if missing.any():
        msg = (
            f"column {name!r} lacks {int(missing.sum())} of {len(missing)} treated rows; fill or drop them, or use "
            "`perturbfm data import` and leave the column out"
        )
        raise DatasetError(msg)
    return name


def _need(columns: dict[str, bool], names: tuple[str, ...], what: str, collection: str) -> str:
    found = _first(columns, names)
    if found is None:
        msg = (
            f"no complete {what} column as {collection} files have it ({', '.join(names)}); columns: "
            f"{', '.join(columns)}; use `perturbfm data import` and name the columns"
        )
        raise DatasetError(msg)
    return found


def perturbench_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of a preprocessed PerturBench file.

    ``condition`` with parts joined by ``+`` and ``control``; ``cell_type`` as context; ``treatment``, where it
    varies, as a further covariate; values are log1p of normalised counts.
    """
    obs = read_obs(path)
    columns = _complete(obs)
    pert = _need(columns, ("condition", "perturbation"), "perturbation", "PerturBench")
    varies = "treatment" in columns and not columns["treatment"] and len(set(obs["treatment"])) > 1
    return ColumnMapping(
        pert_col=pert,
        context_col=_need(columns, ("cell_type", "cell_line", "celltype"), "context", "PerturBench"),
        control_label="control",
        modality_col=_described(obs, pert, "perturbation_type"),
        covariate_cols=("treatment",) if varies else (),
        space="log1p",
    )


def scperturb_mapping(path: Path) -> ColumnMapping:
    """Return the mapping of an scPerturb file.

    ``perturbation`` with parts joined by ``_`` and ``control``; the cell line or cell type as context; raw
    counts in ``X``; dose with its unit, time, batch and perturbation type where the file has them complete.
    """
    obs = read_obs(path)
    columns = _complete(obs)
    pert = _need(columns, ("perturbation",), "perturbation", "scPerturb")
    dose, unit = _described(obs, pert, "dose_value"), ""
    if dose is not None and "dose_unit" in obs:
        treated = obs.loc[(obs[pert] != "control").to_numpy(), "dose_unit"]
        units = sorted({str(u) for u in treated.dropna()})
        if len(units) > 1:
            msg = f"doses are in several units ({', '.join(units)}); convert them to one, or import part of the file"
            raise DatasetError(msg)
        unit = "".join(units)
    return ColumnMapping(
        pert_col=pert,
        context_col=_need(
            columns, ("cell_line", "celltype", "cell_type", "tissue_type"), "context", "scPerturb"
        ),
        batch_col=_first(columns, ("batch", "gemgroup", "replicate")),
        control_label="control",
        dose_col=dose,
        dose_unit=unit,
        time_col=_described(obs, pert, "time"),
        modality_col=_described(obs, pert, "perturbation_type"),
        separators="_",
        space="counts",
    )
