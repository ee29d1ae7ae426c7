"""The row table of a data set as a file holds it: columns of JSON, or a stored table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.condition import (
    canonical_covariates,
    canonical_pert,
    parse_covariates,
    part_id,
    pert_genes,
)
from perturbfm_core.data.obs import make_obs
from perturbfm_core.data.quantities import split_doses
from perturbfm_core.errors import DatasetError

_NEEDED = (schema.PERT_ID, schema.CONTEXT_ID, schema.BATCH_ID, schema.IS_CONTROL)
_NAMES = frozenset({str, int, float})


def obs_to_json(obs: pd.DataFrame) -> dict[str, list[Any]]:
    """Return a row table as columns of plain values."""
    perts = obs[schema.PERT_ID].astype(str)
    doses = obs[schema.DOSES].astype(str)
    table: dict[str, list[Any]] = {
        schema.ROW_ID: [str(r) for r in obs.index],
        schema.PERT_ID: perts.tolist(),
        schema.CONTEXT_ID: obs[schema.CONTEXT_ID].astype(str).tolist(),
        schema.BATCH_ID: obs[schema.BATCH_ID].astype(str).tolist(),
        schema.IS_CONTROL: [bool(x) for x in obs[schema.IS_CONTROL]],
        schema.PERT_GENES: [pert_genes(p) for p in perts],
        schema.PERT_DOSES: [split_doses(d) if d else [] for d in doses],
        schema.MODALITY: obs[schema.MODALITY].astype(str).tolist(),
        schema.COVARIATES: [parse_covariates(str(c)) for c in obs[schema.COVARIATES].astype(str)],
    }
    if schema.WEIGHT in obs:
        table[schema.WEIGHT] = [float(x) for x in obs[schema.WEIGHT]]
    return table


def obs_from_json(table: Any, where: str) -> pd.DataFrame:
    """Return the row table of columns read from JSON; pert_id, context_id, batch_id and is_control are required.

    `where` names the table in messages.

    Raises
    ------
    DatasetError
        If a column is missing, of another length, or holds what it must not.
    """
    if not isinstance(table, dict) or not all(isinstance(v, list) for v in table.values()):
        msg = f"{where} is not a table of columns"
        raise DatasetError(msg)
    missing = [c for c in _NEEDED if c not in table]
    if missing:
        msg = f"{where} lacks the columns {missing}; found {sorted(table)}"
        raise DatasetError(msg)
    lengths = {key: len(column) for key, column in table.items()}
    if len(set(lengths.values())) != 1:
        msg = f"{where} has columns of different lengths: {lengths}"
        raise DatasetError(msg)
    _check_cells(table, where)
    n = lengths[schema.PERT_ID]
    control = [bool(x) for x in table[schema.IS_CONTROL]]
    genes = table.get(schema.PERT_GENES) or [None] * n
    doses = table.get(schema.PERT_DOSES) or [None] * n
    labels, dose_text = [], []
    for i in range(n):
        label = schema.CONTROL if control[i] else str(table[schema.PERT_ID][i])
        if genes[i] and not control[i]:
            label = schema.COMBO_SEPARATOR.join(part_id(g) for g in genes[i])
        pert, dose = canonical_pert(label, [_text(d) for d in doses[i]] if doses[i] else None)
        labels.append(pert)
        dose_text.append(dose)
    columns: dict[str, Any] = {
        schema.PERT_ID: labels,
        schema.CONTEXT_ID: table[schema.CONTEXT_ID],
        schema.BATCH_ID: table[schema.BATCH_ID],
        schema.IS_CONTROL: control,
        schema.MODALITY: table.get(schema.MODALITY) or [""] * n,
        schema.DOSES: dose_text,
        schema.COVARIATES: [_covariates(c) for c in table.get(schema.COVARIATES) or [{}] * n],
    }
    if schema.WEIGHT in table:
        columns[schema.WEIGHT] = table[schema.WEIGHT]
    row_ids = table.get(schema.ROW_ID) or [f"row{i}" for i in range(n)]
    return make_obs(columns, [str(r) for r in row_ids])


def obs_from_table(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the row table of a stored one, checked and in canonical form; `where` names it in messages.

    Raises
    ------
    DatasetError
        If a column is missing or holds what it must not.
    """
    missing = [c for c in _NEEDED if c not in frame]
    if missing:
        msg = f"{where} lacks the columns {missing}; found {sorted(map(str, frame.columns))}"
        raise DatasetError(msg)
    columns: dict[str, Any] = {}
    for name in (*schema.OBS_COLUMNS, schema.WEIGHT):
        if name not in frame:
            continue
        column = frame[name]
        numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
        wrong = {
            schema.IS_CONTROL: column.dtype != np.bool_ and "true or false",
            schema.WEIGHT: not numeric and "numbers",
        }.get(name, (column.isna().any() or _of_categories(column) - _NAMES) and "names")
        if wrong:
            msg = f"{where}: column {name} must hold {wrong}, found {column.dtype}; import the data set again"
            raise DatasetError(msg)
        columns[name] = column
    return make_obs(columns, [str(r) for r in frame.index])


def _of_categories(column: pd.Series) -> set[type]:
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    return set(map(type, values.tolist()))


def _check_cells(table: dict[str, Sequence[Any]], where: str) -> None:
    """Check what the cells of each column are."""
    for column, accepted, needed in (
        (schema.PERT_ID, _is_name, "a name"),
        (schema.CONTEXT_ID, _is_name, "a name"),
        (schema.BATCH_ID, _is_name, "a name"),
        (schema.ROW_ID, _is_name, "a name"),
        (schema.MODALITY, _is_name, "a name"),
        (schema.IS_CONTROL, _is_flag, "true or false"),
        (schema.PERT_GENES, _is_names, "a list of names"),
        (schema.PERT_DOSES, _is_doses, "a list of doses"),
        (schema.COVARIATES, _is_covariates, "a table of names and values"),
        (schema.WEIGHT, _is_number, "a number"),
    ):
        odd = next((i for i, cell in enumerate(table.get(column) or ()) if not accepted(cell)), None)
        if odd is not None:
            msg = f"{where}: {column} of row {odd} is {str(table[column][odd])[:60]}; it must be {needed}"
            raise DatasetError(msg)


def _is_name(cell: Any) -> bool:
    return type(cell) in _NAMES


def _is_number(cell: Any) -> bool:
    return type(cell) in (int, float)


def _is_flag(cell: Any) -> bool:
    return isinstance(cell, bool) or (type(cell) is int and cell in (0, 1))


def _is_names(cell: Any) -> bool:
    return cell is None or (isinstance(cell, list) and all(isinstance(x, str) for x in cell))


def _is_doses(cell: Any) -> bool:
    return cell is None or (isinstance(cell, list) and all(type(x) in _NAMES for x in cell))


def _is_covariates(cell: Any) -> bool:
    return cell is None or (
        isinstance(cell, dict) and not any(isinstance(x, dict | list) for x in cell.values())
    )


def _text(value: Any) -> str:
    """Return a dose as text; a number never has an exponent, whose plus sign would separate parts."""
    if isinstance(value, float):
        return str(np.format_float_positional(value, precision=15, fractional=False, trim="-"))
    return str(value)


def _covariates(cell: Any) -> str:
    return canonical_covariates({k: "" if v is None else v for k, v in (cell or {}).items()})
