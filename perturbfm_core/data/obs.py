"""The row table of a data set in canonical form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.schema import Level

# Fewer rows say nothing of what they are.
_FEWEST_ROWS = 3


def usual_level(obs: pd.DataFrame, differences: bool) -> Level:
    """Return the level that rows have where none is declared: ``condition`` if no condition has two, else ``cell``.

    Fewer than three rows say nothing. Differences to controls are of conditions: single cells have none.
    """
    if differences:
        return "condition"
    rows = obs[list(schema.CONDITION_COLUMNS)][~obs[schema.IS_CONTROL].to_numpy(dtype=bool)]
    return "cell" if len(rows) < _FEWEST_ROWS or rows.duplicated().any() else "condition"


def make_obs(columns: Mapping[str, Sequence[Any]], row_ids: Sequence[str]) -> pd.DataFrame:
    """Return a row table in canonical form.

    Parameters
    ----------
    columns
        {column: values [N], already canonical}: ``pert_id`` and any of the other `schema.OBS_COLUMNS`
        (default: one context and batch ``"all"``, empty modality, doses and covariates), optionally
        ``weight``.
    row_ids
        Row ids [N].
    """
    n = len(row_ids)
    defaults = {
        schema.CONTEXT_ID: "all",
        schema.BATCH_ID: "all",
        schema.MODALITY: "",
        schema.DOSES: "",
        schema.COVARIATES: "",
    }
    obs = pd.DataFrame(index=pd.Index([str(r) for r in row_ids], name=schema.ROW_ID, dtype=object))
    for name in schema.OBS_COLUMNS:
        if name == schema.IS_CONTROL:
            given = columns.get(name)
            pert = np.asarray(columns[schema.PERT_ID], dtype=object)
            obs[name] = pert == schema.CONTROL if given is None else np.asarray(given, dtype=np.bool_)
        else:
            values = columns.get(name, [defaults.get(name, "")] * n)
            series = pd.Series(values, index=obs.index)
            if not isinstance(series.dtype, pd.CategoricalDtype):
                series = series.astype(str).astype("category")
            # Sorted categories make the category codes independent of the order of rows.
            series = series.cat.remove_unused_categories()
            series = series.cat.reorder_categories(sorted(series.cat.categories), ordered=False)
            obs[name] = series
    if schema.WEIGHT in columns:
        obs[schema.WEIGHT] = np.asarray(columns[schema.WEIGHT], dtype=np.float64)
    return obs
