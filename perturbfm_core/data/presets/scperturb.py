"""Preset for scPerturb files."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.imports.labels import MISSING
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.preset import (
    described_column,
    filled_column,
    matches_controls,
    needed_column,
    preset,
)
from perturbfm_core.errors import DatasetError

_CONTROLS = ("control",)
# Columns of a treatment given beside the perturbation: a second drug, a stimulation, a co-culture.
_FURTHER = re.compile(r"perturbation_\d+")


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
    any row has them. A stimulation in ``perturbation_2`` is a covariate, within which rows are matched to controls.

    Raises
    ------
    DatasetError
        If a required column is missing, or a further column of perturbations holds what cannot be such a covariate.
    """
    obs = read_obs(path)
    pert = needed_column(obs, ("perturbation",), "perturbation", "scPerturb")
    dose = described_column(obs, pert, _CONTROLS, ["dose_value"])
    context = needed_column(
        obs, ("cell_line", "celltype", "cell_type", "tissue_type"), "context", "scPerturb"
    )
    batch = filled_column(obs, ("batch", "gemgroup", "replicate"))
    further = _stimulation(obs, pert, context)
    return ColumnMapping(
        pert_col=pert,
        context_col=context,
        batch_col=batch if further is None else _batch_within(obs, pert, (context, batch), further),
        covariate_cols=() if further is None else (further,),
        control_label=_CONTROLS,
        dose_col=dose,
        dose_unit_col=None if dose is None else described_column(obs, pert, _CONTROLS, ["dose_unit"]),
        time_col=described_column(obs, pert, _CONTROLS, ["time"]),
        modality_col=described_column(obs, pert, _CONTROLS, ["perturbation_type"]),
        separators=("_",),
        split_known_only=True,
        space="counts",
    )


def _stimulation(obs: pd.DataFrame, pert: str, context: str) -> str | None:
    """Return the column of a stimulation given beside the perturbation, None if there is none.

    Raises
    ------
    DatasetError
        If there are several, or it holds further parts of a combination or lacks controls in which it is given.
    """
    found = [c for c in map(str, obs.columns) if _FURTHER.fullmatch(c) and len(set(_given(obs[c]))) > 1]
    if not found:
        return None
    column = found[0]
    values = _given(obs[column])
    control = obs[pert].isin(_CONTROLS).to_numpy()
    shown = ", ".join(repr(v) for v in list(dict.fromkeys(values[values != _CONTROLS[0]]))[:3])
    what = f"obs column {column!r} holds treatments beside {pert!r} (e.g. {shown})"
    missing = int(_missing(obs[column]).sum())
    untreated = f"{_CONTROLS[0]!r} rows of {pert!r}"
    why = None
    if len(found) > 1:
        why = f"{' and '.join(map(repr, found))} vary"
    elif _same_kind(obs, column):
        why = "they are of the same kind, so parts of combinations"
    elif not missing and control.any():
        if not set(values) <= set(values[~control]):
            # A perturbation of its own: as a covariate it would have no effect.
            why = f"some are given to {untreated} alone"
        elif not matches_controls(obs, (context, column), ~control):
            why = f"some have no {untreated} to compare with"
    if why is not None:
        msg = f"{what}, and {why}; {_joining(obs, pert, context, found)}"
        raise DatasetError(msg)
    if missing:
        msg = (
            f"{what} and {missing} missing values; fill them with what they mean, e.g. {_CONTROLS[0]!r} for no such "
            "treatment, or drop their rows"
        )
        raise DatasetError(msg)
    return column


def _joining(obs: pd.DataFrame, pert: str, context: str, found: list[str]) -> str:
    """Return how to import a file whose columns hold the parts of combinations.

    Parameters
    ----------
    obs
        Row table of the file.
    pert, context
        Its columns of perturbations and of contexts.
    found
        Its further columns of perturbations.
    """
    numbers = [c.rpartition("_")[2] for c in found]
    doses = [c for c in ("dose_value", *(f"dose_value_{n}" for n in numbers)) if filled_column(obs, [c])]
    parts = " and ".join(map(repr, [pert, *found]))
    doing = f"join {parts} with '+' in a new obs column 'pert' ('A+B', 'A+{_CONTROLS[0]}')"
    options = (
        f"--pert-col pert --separator + --control-label {_CONTROLS[0]} --context-col {context} --space counts"
    )
    if len(doses) > 1:
        doing += f", {' and '.join(map(repr, doses))} in the same order in a new one 'doses' ('10+5')"
        options += " --dose-col doses"
        options += " --dose-unit-col dose_unit" if filled_column(obs, ["dose_unit"]) else ""
    return f"{doing}, then use `perturbfm data import FILE {options}`"


def _missing(column: pd.Series) -> pd.Series:
    return column.isna() | column.astype(str).str.strip().isin(MISSING)


def _given(column: pd.Series) -> pd.Series:
    """Return the treatments of a column as text, those that are missing as the control."""
    return column.astype(str).str.strip().mask(_missing(column).to_numpy(), _CONTROLS[0])


def _same_kind(obs: pd.DataFrame, column: str) -> bool:
    """Return whether a further column has perturbations of the kind of the first: by its type, else by its doses."""
    number = column.rpartition("_")[2]
    kind = f"perturbation_type_{number}"
    given = (_given(obs[column]) != _CONTROLS[0]).to_numpy()
    if filled_column(obs, ["perturbation_type"]) and filled_column(obs[given], [kind]):
        first, further = obs["perturbation_type"].dropna(), obs.loc[given, kind].dropna()
        return bool((set(first.astype(str)) & set(further.astype(str))) - MISSING)
    doses = filled_column(obs[given], [f"dose_value_{number}"])
    return doses is not None and filled_column(obs, ["dose_value"]) is not None


def _batch_within(obs: pd.DataFrame, pert: str, columns: tuple[str, str | None], further: str) -> str:
    """Return the column whose controls have the same stimulation: the batch if it parts stimulations, else `further`.

    Parameters
    ----------
    obs
        Row table of the file.
    pert
        Its column of perturbations.
    columns
        Its columns of contexts and of batches.
    further
        Its column of stimulations.
    """
    batch = columns[1]
    if batch is None or obs.groupby(list(columns), observed=True)[further].nunique().max() > 1:
        return further
    treated = ~obs[pert].isin(_CONTROLS).to_numpy()
    return batch if matches_controls(obs, columns, treated) else further
