"""Gene features in data frames: the column of gene ids, and the columns of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.parquet import read_parquet
from perturbfm_core.errors import GraphError
from perturbfm_core.graphs.features import GeneFeatures, read_features
from perturbfm_core.graphs.tables import GENE_COLUMNS, ROW_NAMES, column_word
from perturbfm_core.schema import FloatArray

GENE_ID_COLUMNS = tuple(dict.fromkeys(("gene", "genes", "gene_id", "symbol", *GENE_COLUMNS, *ROW_NAMES)))
# Cells that stand for a missing value, in lower case.
_MISSING = ("", "na", "n/a", "nan", "null", "none", "-", ".", "<na>")
_SHOWN = 5


def has_gene_ids(table: pd.DataFrame) -> bool:
    """Return whether a data frame has a column of gene ids by its name."""
    return any(column_word(c) in GENE_ID_COLUMNS for c in table.columns)


def noted_features(path: Path, name: str) -> tuple[GeneFeatures, list[str]]:
    """Return the gene features of an npz or parquet file (see `read_features`), and which columns were left out."""
    if path.suffix == ".npz":
        return read_features(path, name), []
    return features_of_table(read_parquet(path, GraphError), path, name)


def features_of_table(table: pd.DataFrame, path: Path, name: str) -> tuple[GeneFeatures, list[str]]:
    """Return the gene features of a data frame with a column of gene ids and columns of numbers, and what was left out.

    Parameters
    ----------
    table
        The data frame.
    path
        Its file in messages.
    name
        Name of the features.

    Raises
    ------
    GraphError
        If it has no such columns, a cell of a column of numbers is none, or a gene has several rows or no name.
    """
    words = {column_word(c): i for i, c in reversed(list(enumerate(table.columns)))}
    at = next((words[w] for w in GENE_ID_COLUMNS if w in words), None)
    genes = None if at is None else _text(table.iloc[:, at])
    numbers, notes = _columns_of_numbers(table, at, genes, path)
    if genes is None or not numbers:
        msg = f"{path} has columns {[str(c) for c in table.columns][:6]}; gene features need one of gene ids ('gene') and numbers"
        raise GraphError(msg)
    if (genes == "").any():
        row = int((genes == "").to_numpy().argmax()) + 1
        msg = f"{path} names no gene in row {row} ({int((genes == '').sum())} such rows); remove them"
        raise GraphError(msg)
    twice = genes.duplicated()
    if twice.any():
        msg = f"{path} names a gene twice: {str(genes.iloc[int(twice.to_numpy().argmax())])!r} ({int(twice.sum())} rows repeat one); keep one row per gene"
        raise GraphError(msg)
    return GeneFeatures(name, genes.to_numpy(dtype=np.str_), np.column_stack(numbers)), notes


def _text(cells: pd.Series[Any]) -> pd.Series[str]:
    """Return cells as text without blanks around it, "" for a missing one."""
    return cells.astype(object).where(cells.notna(), "").astype(str).str.strip()


def _columns_of_numbers(
    table: pd.DataFrame, ids: int | None, genes: pd.Series[str] | None, path: Path
) -> tuple[list[FloatArray], list[str]]:
    """Return the columns [N] of numbers of a table as float32, and which others were left out."""
    out: list[FloatArray] = []
    texts: list[str] = []
    for i, column in enumerate(table.columns):
        cells = table.iloc[:, i]
        if i == ids or (column_word(column) in ROW_NAMES and _counts(cells)):
            continue
        values = _numbers(cells)
        bad = np.ones(len(cells), dtype=np.bool_) if values is None else ~np.isfinite(values)
        if values is None or (bad.any() and _is_text(cells, bad)):
            texts.append(repr(str(column)))
        elif bad.any():
            row = int(bad.argmax())
            who = "" if genes is None else f" (gene {str(genes.iloc[row])!r})"
            msg = (
                f"{path}: column {str(column)!r} holds {str(cells.iloc[row])!r} in row {row + 1}{who}, which is no finite "
                f"number ({int(bad.sum())} of {len(bad)} cells are none); fill them, or leave out the column or the rows"
            )
            raise GraphError(msg)
        else:
            out.append(values)
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    said = f"{len(texts)} columns hold no numbers and are left out: {', '.join(texts[:_SHOWN])}{more}"
    return out, [said] if texts else []


def _numbers(cells: pd.Series[Any]) -> FloatArray | None:
    """Return a column as float32 [N], NaN for what is no number; None for one of dates, truth values or lists."""
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    types = pd.api.types
    if types.is_bool_dtype(cells) or not (
        types.is_numeric_dtype(cells) or types.is_string_dtype(cells.dtype)
    ):
        return None
    try:
        values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except TypeError:
        return None
    with np.errstate(over="ignore"):
        return np.asarray(values.astype(np.float32))


def _is_text(cells: pd.Series[Any], bad: Any) -> bool:
    """Return whether a column is one of text, not one of numbers that lacks some; `bad` is bool [N], where it has none."""
    if pd.api.types.is_numeric_dtype(cells):
        return False
    missing = _text(cells).str.lower().isin(_MISSING).to_numpy(dtype=np.bool_)
    return bool(missing.all() or (2 * bad.sum() > len(bad) and (bad & ~missing).any()))


def _counts(cells: pd.Series[Any]) -> bool:
    """Return whether a column numbers the rows, from 0 or from 1."""
    if cells.dtype.kind not in "iu" or not len(cells):
        return False
    first = int(cells.iloc[0])
    return first in (0, 1) and bool((cells.to_numpy() == np.arange(first, first + len(cells))).all())
