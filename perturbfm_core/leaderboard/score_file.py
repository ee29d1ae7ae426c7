"""Scores of one run, read from its ``scores.parquet`` and checked."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.columns import Columns
from perturbfm_core.schema import BoolArray

SCORE_COLUMNS: Columns = {
    **dict.fromkeys(schema.SCORE_COLUMNS, "text"),
    "seed": "int",
    "value": "float",
    "n": "int",
}
TEXT = pa.dictionary(pa.int32(), pa.string())
_TYPES = {"text": TEXT, "int": pa.int64(), "float": pa.float64()}
_TEXTS = [c for c, t in SCORE_COLUMNS.items() if t == "text"]
_NAMES = ("panel", "metric", "scope", "key")
_AGAIN = "remove the run or make it again"


def read_scores(file: Path, run_id: str, content: bytes | None = None) -> pa.Table:
    """Return the columns of `SCORE_COLUMNS` in their types, texts as dictionaries; undefined values are null.

    Parameters
    ----------
    file
        ``scores.parquet`` of the run.
    run_id
        The run that they have to be of.
    content
        Content of the file, where it has been read.

    Raises
    ------
    StoreError
        If the file cannot be read, lacks a column, or holds something else.
    """
    try:
        there = set(pq.read_schema(_source(file, content)).names)
        lacking = [c for c in SCORE_COLUMNS if c not in there]
        if not lacking:
            with pq.ParquetFile(_source(file, content), read_dictionary=_TEXTS) as source:
                read = source.read(columns=list(SCORE_COLUMNS), use_threads=False)
            table = pa.table({c: _typed(read[c], _TYPES[t]) for c, t in SCORE_COLUMNS.items()})
    except (OSError, ValueError, TypeError, KeyError, ArrowException) as error:
        msg = f"{file} cannot be read ({' '.join(str(error).split())[:100]}); {_AGAIN}"
        raise StoreError(msg) from error
    if lacking:
        msg = f"{file} lacks the columns {lacking}; {_AGAIN}"
        raise StoreError(msg)
    others = set(pc.unique(table["run_id"]).to_pylist()) - {run_id}
    if others or not table.num_rows:
        msg = f"{file} holds {f'scores of run {others.pop()}' if others else 'no score'}; {_AGAIN}"
        raise StoreError(msg)
    unnamed = [c for c in _NAMES if table[c].null_count]
    if unnamed:
        msg = f"{file} has rows without {', '.join(unnamed)}; {_AGAIN}"
        raise StoreError(msg)
    return table


def _source(file: Path, content: bytes | None) -> Any:
    return file if content is None else pa.BufferReader(content)


def _typed(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.Array:
    """Return a column as one array of a type; what is not a number is null."""
    if column.type != wanted:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_dictionary(wanted):
            column = column.cast(pa.string()).dictionary_encode()
        else:
            column = _defined(column).cast(wanted)
    if column.num_chunks != 1 and pa.types.is_dictionary(wanted):
        column = column.unify_dictionaries()
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], wanted)
    return _defined(array)


def _defined(values: Any) -> Any:
    """Return values with null for what is not a number."""
    if not pa.types.is_floating(values.type):
        return values
    is_nan = pc.is_nan(values)
    return pc.if_else(is_nan, None, values) if pc.any(is_nan).as_py() else values


def stored_form(content: bytes, table: pa.Table) -> bytes:
    """Return the content of a Parquet file of scores, written anew only where its types are others than those read.

    Parameters
    ----------
    content
        The file as it is.
    table
        What `read_scores` made of it.
    """
    source = pq.ParquetFile(pa.BufferReader(content))
    plain = {"text": pa.string(), "int": pa.int64(), "float": pa.float64()}
    types = {
        f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in source.schema_arrow
    }
    place = source.schema_arrow.names.index("value")
    parts = [source.metadata.row_group(i).column(place).statistics for i in range(source.num_row_groups)]
    nulls = sum(p.null_count for p in parts if p is not None and p.has_null_count)
    if all(types[c] == plain[t] for c, t in SCORE_COLUMNS.items()) and nulls == table["value"].null_count:
        return content
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def rows_of(table: pa.Table, scope: str) -> BoolArray:
    """Return bool [rows], which rows of scores are of a scope."""
    column = table["scope"].chunk(0)
    names = column.dictionary.to_pylist()
    wanted = names.index(scope) if scope in names else -1
    return np.asarray(np.asarray(column.indices) == wanted)


def global_scores(table: pa.Table) -> pa.Table:
    """Return the rows of scope ``global``."""
    return table.take(pa.array(np.flatnonzero(rows_of(table, "global"))))
