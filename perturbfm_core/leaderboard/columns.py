"""Types of the columns of the leaderboard database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pandas as pd

ColumnType = Literal["text", "float", "int", "bool"]
Columns = Mapping[str, ColumnType]

# Nullable types of pandas, so that a column without any value keeps its type in DuckDB.
_PANDAS: dict[ColumnType, str] = {"text": "string", "float": "Float64", "int": "Int64", "bool": "boolean"}


def typed(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return a copy of a table with the declared types; a column without a declared type is text."""
    out = frame.copy()
    for name in out.columns:
        kind = columns.get(name, "text")
        values = pd.to_numeric(out[name]) if kind == "float" else out[name]
        out[name] = values.astype(_PANDAS[kind])
    return out
