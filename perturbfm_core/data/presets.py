"""Column mappings of collections whose files share a layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from perturbfm_core.data.importing import ColumnMapping, read_obs
from perturbfm_core.errors import DatasetError


def _complete(obs: pd.DataFrame) -> dict[str, bool]:
    """Return {obs column: whether it has missing values}."""
    return {str(c): bool(obs[c].isna().any()) for c in obs.columns}


def _first(columns: dict[str, bool], names: tuple[str, ...]) -> str | None:
    """Return the first of `names` that is a column without missing values."""
    return next((n for n in names if n in columns and not columns[n]), None)


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
    varies = "treatment" in columns and not columns["treatment"] and len(set(obs["treatment"])) > 1
    return ColumnMapping(
        pert_col=_need(columns, ("condition", "perturbation"), "perturbation", "PerturBench"),
        context_col=_need(columns, ("cell_type", "cell_line", "celltype"), "context", "PerturBench"),
        control_label="control",
        modality_col=_first(columns, ("perturbation_type",)),
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
    unit = ""
    if "dose_unit" in columns and not columns["dose_unit"]:
        units = np.unique(obs["dose_unit"].astype(str))
        unit = str(units[0]) if len(units) == 1 else ""
    return ColumnMapping(
        pert_col=_need(columns, ("perturbation",), "perturbation", "scPerturb"),
        context_col=_need(
            columns, ("cell_line", "celltype", "cell_type", "tissue_type"), "context", "scPerturb"
        ),
        batch_col=_first(columns, ("batch", "gemgroup", "replicate")),
        control_label="control",
        dose_col=_first(columns, ("dose_value",)),
        dose_unit=unit,
        time_col=_first(columns, ("time",)),
        modality_col=_first(columns, ("perturbation_type",)),
        separators="_",
        space="counts",
    )
