"""Prediction files of every format: npz by data set row, and npz, h5ad, parquet or CSV with labelled rows."""

from __future__ import annotations

import codecs
import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core.data.h5ad import read_matrix
from perturbfm_core.data.npz import read_npz
from perturbfm_core.data.parquet import read_parquet
from perturbfm_core.data.prediction import RowPrediction, from_arrays
from perturbfm_core.data.prediction_arrays import (
    declared_kind,
    matrix_of,
    names_of,
    refuse_longer,
    refuse_unread,
    text_of,
)
from perturbfm_core.data.prediction_labels import LabelColumns, is_known
from perturbfm_core.data.text import column_text
from perturbfm_core.errors import PredictionError
from perturbfm_core.parsing import MAX_LINE_BYTES, open_regular
from perturbfm_core.schema import FloatArray, PredictionKind, StrArray

FORMATS = ("npz", "h5ad", "parquet", "csv")
_TEXT = (".csv", ".tsv", ".txt")
_DOCS = "write npz, h5ad, parquet or CSV (see docs/predictions.md, `perturbfm predictions template`)"
# Beside these columns of a table in long form, each row of it is one gene of one condition.
_GENE, _MEAN, _VAR = "gene", "mean", "var"
_INDEX = "__index_level_0__"
# Columns of `perturbfm export`, whose values are deltas.
_EXPORTED = {"n_rows", "first_row_id"}
_STATED = ("kind", "space", "split_hash", "data_content_sha256")


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """Predicted values with labels, not yet matched to the conditions of a data set.

    Attributes
    ----------
    source
        The file.
    values
        float32 [R, G], CSR or dense.
    genes
        Gene ids of the columns [G].
    labels
        Text columns that say what each row is [R]; the index is the name of each row.
    var
        float32 [R, G], predictive variance, or None.
    kind
        What the file says that `values` are, None if it does not say.
    by_convention
        Whether the format commonly holds expression, so that it may be recognised (an h5ad file).
    stated
        Further declarations of the file: ``space, split_hash, data_content_sha256``.
    """

    source: Path
    values: Any
    genes: StrArray
    labels: pd.DataFrame
    var: FloatArray | None = None
    kind: PredictionKind | None = None
    by_convention: bool = False
    stated: dict[str, str | None] = field(default_factory=dict)


def read_prediction_file(
    path: Path, columns: LabelColumns, genes: StrArray
) -> RowPrediction | PredictionTable:
    """Read a prediction file, whose format its content and name tell.

    Parameters
    ----------
    path
        The file.
    columns
        Names of its columns, as far as they are given.
    genes
        Gene ids of the data set: columns of other names are not read as values.

    Raises
    ------
    PredictionError, DatasetError
        If the file is missing, damaged, of another format or malformed.
    """
    suffix = path.suffix.lower()
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(8)
    if head.startswith(b"\x93NUMPY"):
        msg = f"{path} is a single array (.npy), which names no rows and genes: save mean, idx and genes with numpy.savez, or {_DOCS}"
        raise PredictionError(msg)
    if head.startswith(b"\x80") or suffix in (".pkl", ".pickle", ".pt", ".pth"):
        msg = f"{path} is a pickle, which is never loaded: {_DOCS}"
        raise PredictionError(msg)
    if head.startswith(b"\x89HDF") or suffix in (".h5ad", ".h5"):
        return _from_h5ad(path, columns)
    if head.startswith(b"PAR1") or suffix in (".parquet", ".pq"):
        return _from_parquet(path, columns, genes)
    if suffix in _TEXT and not head.startswith(b"PK"):
        return _from_text(path, columns, genes)
    if suffix in (".npz", "") or not path.is_file() or head.startswith(b"PK"):
        return _from_npz(path)
    msg = f"{path} is no known prediction file: {_DOCS}"
    raise PredictionError(msg)


# ---- npz and h5ad ------------------------------------------------------------------------------------------


def _from_npz(path: Path) -> RowPrediction | PredictionTable:
    arrays = read_npz(path, PredictionError)
    refuse_unread(arrays, path, "array")
    by_row = {"idx", "row", "row_id"} & set(arrays)
    if by_row or "mean" not in arrays or "genes" not in arrays:
        return from_arrays(arrays, path)
    mean = matrix_of(arrays["mean"], "mean", path)
    text = {
        key: array
        for key, array in arrays.items()
        if array.ndim == 1 and array.dtype.kind in "US" and key not in ("genes", "control", *_STATED)
    }
    for key, array in text.items():
        if len(array) != len(mean):
            msg = f"{path}: {key} has {len(array)} names for {len(mean)} rows of mean"
            raise PredictionError(msg)
    labels = {key: names_of(array, key, path) for key, array in text.items()}
    if not labels:
        return from_arrays(arrays, path)
    kind, space = declared_kind(arrays, path)
    genes = names_of(arrays["genes"], "genes", path).reshape(-1)
    if len(genes) != mean.shape[1]:
        msg = f"{path}: genes has {len(genes)} names for {mean.shape[1]} columns of mean"
        raise PredictionError(msg)
    return PredictionTable(
        path,
        mean,
        genes,
        pd.DataFrame(labels, dtype=object),
        var=_variance(arrays["var"], mean.shape, path) if "var" in arrays else None,
        kind=kind,
        stated={"space": space, **{k: text_of(arrays[k], k, path) for k in _STATED[2:] if k in arrays}},
    )


def _variance(values: Any, shape: tuple[int, ...], path: Path) -> FloatArray:
    var = matrix_of(np.asarray(values), "var", path)
    if var.shape != shape:
        msg = f"{path}: var {var.shape} and the predicted values {shape} must be equal [rows, genes]"
        raise PredictionError(msg)
    return var


def _from_h5ad(path: Path, columns: LabelColumns) -> PredictionTable:
    obs, var, X = read_matrix(path, columns.layer)
    X = _by_rows(X)
    if X.dtype.kind not in "fiu":
        msg = f"{path}: X must hold numbers, found {X.dtype}"
        raise PredictionError(msg)
    names = var.index
    if columns.gene_col is not None:
        if columns.gene_col not in var:
            msg = f"{path}: var has no column {columns.gene_col!r} (--gene-col); columns: {', '.join(map(str, var.columns)) or 'none'}"
            raise PredictionError(msg)
        names = var[columns.gene_col]
    stated, layers = _unstructured(path)
    kind, space = declared_kind(stated, path)
    refuse_unread(layers, path, "layer")
    variance = None
    if "var" in layers and columns.layer != "var":
        found = _by_rows(read_matrix(path, "var")[2])
        variance = _variance(found.toarray() if hasattr(found, "toarray") else found, X.shape, path)
    return PredictionTable(
        path,
        X.astype(np.float32),
        np.asarray([str(g) for g in names], dtype=np.str_),
        _as_text(obs),
        var=variance,
        kind=kind,
        by_convention=True,
        stated={"space": space, **{k: stated[k] for k in _STATED[2:] if k in stated}},
    )


def _unstructured(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return (declarations in uns, names of layers) of an h5ad file."""
    import h5py

    with h5py.File(path, "r") as file:
        uns = file.get("uns", {})
        out = {}
        for key in _STATED:
            value = uns[key][()] if key in uns and getattr(uns[key], "shape", None) == () else None
            if isinstance(value, bytes | str):
                out[key] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return out, list(file.get("layers", {}))


def _as_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return columns as text, missing values as empty text."""
    out = pd.DataFrame(index=pd.Index([str(name) for name in table.index], dtype=object))
    for name in table.columns:
        column = table[name]
        kind = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
        if isinstance(kind, np.dtype) and kind.kind == "f":
            # As imports write them: .1 in single precision is 0.1.
            there = column.notna()
            text = np.full(len(column), "", dtype=object)
            text[there] = column_text(column[there], str(name)).to_numpy()
        else:
            text = column.astype(object).map(_text).to_numpy()
        out[str(name)] = text
    return out


def _by_rows(X: Any) -> Any:
    """Return a matrix of a file, a sparse one in CSR whatever the file has."""
    return sp.csr_array(X) if sp.issparse(X) else X


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


# ---- tables ------------------------------------------------------------------------------------------------


def _from_text(path: Path, columns: LabelColumns, genes: StrArray) -> PredictionTable:
    with open_regular(path, PredictionError) as binary:
        head = binary.read(2)
    encoding = "utf-16" if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        with path.open(encoding=encoding, newline="") as file:
            first = file.readline(MAX_LINE_BYTES)
    except (OSError, UnicodeError) as error:
        msg = f"{path} cannot be read as text ({error}); {_DOCS}"
        raise PredictionError(msg) from error
    separator = max("\t,;", key=first.count)
    try:
        header = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
    except csv.Error:
        # One cell of more than a hundred thousand characters.
        header = []
    if len(header) < 2 or "\x00" in first:
        msg = f"{path} has no table with a header line (found {first[:40]!r}); {_DOCS}"
        raise PredictionError(msg)
    labels, values = _split_columns(header, columns, genes, path)

    def read(where: list[int], **options: Any) -> pd.DataFrame:
        # A handle: of a path, pandas takes some for an address of the web.
        with path.open(encoding=encoding, newline="") as handle:
            return pd.read_csv(
                handle, sep=separator, header=None, skiprows=1, usecols=where,
                index_col=False, skipinitialspace=True, **options,
            )[where]  # fmt: skip

    try:
        text = read(labels, dtype=str, keep_default_na=False) if labels else None
        numbers = read(values)
        with path.open(encoding=encoding, newline="") as file:
            refuse_longer(path, file, separator, len(header))
    except pd.errors.EmptyDataError as error:
        msg = f"{path} has a header line and no rows; {_DOCS}"
        raise PredictionError(msg) from error
    except (ValueError, OSError, csv.Error, pd.errors.ParserError) as error:
        msg = f"{path} cannot be read as a table ({' '.join(str(error).split())[:160]}); {_DOCS}"
        raise PredictionError(msg) from error
    numbers.columns = [header[i] for i in values]
    if text is None:
        text = pd.DataFrame(index=numbers.index)
    else:
        text.columns = [header[i] for i in labels]
    return _table(path, text, numbers, exported=set(header) >= _EXPORTED)


def _from_parquet(path: Path, columns: LabelColumns, genes: StrArray) -> PredictionTable:
    frame = read_parquet(path, PredictionError)
    if _INDEX in frame:
        # An index without a name: the names of the rows.
        frame.insert(0, "", frame.pop(_INDEX))
    header = [str(c) for c in frame.columns]
    labels, values = _split_columns(header, columns, genes, path)
    frame.columns = pd.Index(header)
    exported = set(header) >= _EXPORTED
    return _table(path, frame.iloc[:, labels], frame.iloc[:, values], exported=exported)


def _split_columns(
    header: list[str], columns: LabelColumns, genes: StrArray, path: Path
) -> tuple[list[int], list[int]]:
    """Return positions of (label columns, columns of values) of a table."""
    known = {str(g) for g in genes}
    for name in columns.given():
        if name not in header:
            msg = f"{path} has no column {name!r}; columns: {', '.join(header[:8])}{', ...' if len(header) > 8 else ''}"
            raise PredictionError(msg)
    if _GENE in header and _MEAN in header and _MEAN not in known:
        refuse_unread(header, path, "column")
        values = [header.index(name) for name in (_MEAN, _VAR) if name in header]
        labels = [i for i, n in enumerate(header) if n == _GENE or is_known(n, columns)]
        return labels, values
    values = [i for i, n in enumerate(header) if n in known and n not in columns.given()]
    if not values:
        msg = (
            f"{path} has none of the {len(known)} genes as a column, e.g. {[str(g) for g in genes[:3]]}; rows must be conditions "
            f"or cells, columns genes; it has {header[:4]}"
        )
        raise PredictionError(msg)
    labels = [i for i, n in enumerate(header) if i not in set(values) and (i == 0 or is_known(n, columns))]
    return labels, values


def _table(path: Path, text: pd.DataFrame, numbers: pd.DataFrame, *, exported: bool) -> PredictionTable:
    bad = [str(c) for c, kind in zip(numbers.columns, numbers.dtypes, strict=True) if kind.kind not in "fiu"]
    if bad:
        column = numbers.iloc[:, [str(c) for c in numbers.columns].index(bad[0])]
        wrong = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
        shown = f", e.g. {str(wrong.iloc[0])[:40]!r}" if len(wrong) else ""
        msg = f"{path}: column {bad[0]!r} holds text{shown}; give numbers with a decimal point"
        raise PredictionError(msg)
    labels = _as_text(text)
    kinds = [k for k in set(labels.get("kind", ())) if k]
    if len(kinds) > 1:
        msg = f"{path}: column 'kind' has {sorted(kinds)}; declare one kind for the file"
        raise PredictionError(msg)
    kind, _ = declared_kind({"kind": kinds[0]} if kinds else {}, path)
    kind = "delta" if kind is None and exported else kind
    labels = labels.drop(columns="kind", errors="ignore")
    var = None
    if _GENE in labels and _MEAN in numbers:
        labels, genes, (values, var) = _pivoted(path, labels, numbers)
    else:
        genes, values = [str(c) for c in numbers.columns], numbers.to_numpy(dtype=np.float32)
        if len(labels.columns):
            labels.index = pd.Index(labels.iloc[:, 0])
    return PredictionTable(
        path, values, np.asarray(genes, dtype=np.str_), labels, var=var, kind=kind
    )  # fmt: skip


def _pivoted(
    path: Path, labels: pd.DataFrame, numbers: pd.DataFrame
) -> tuple[pd.DataFrame, list[str], tuple[FloatArray, FloatArray | None]]:
    """Return (labels, genes, (mean, variance)) of a table with a row per condition and gene."""
    names = [c for c in labels.columns if c != _GENE]
    if not names:
        msg = f"{path} has a row per gene but no column that names the condition; {_DOCS}"
        raise PredictionError(msg)
    row = labels.groupby(names, sort=False, observed=True).ngroup().to_numpy()
    column, genes = pd.factorize(labels[_GENE])
    n = int(row.max()) + 1 if len(row) else 0
    if len(np.unique(row * np.int64(max(len(genes), 1)) + column)) < len(row):
        msg = f"{path} repeats a gene of a condition; give each gene of each condition once"
        raise PredictionError(msg)
    first = np.unique(row, return_index=True)[1]

    def matrix(name: str) -> FloatArray:
        out = np.full((n, len(genes)), np.nan, dtype=np.float32)
        out[row, column] = numbers[name].to_numpy(dtype=np.float32)
        return out

    kept = labels.iloc[first][names]
    kept.index = pd.Index(kept.iloc[:, 0])
    return kept, [str(g) for g in genes], (matrix(_MEAN), matrix(_VAR) if _VAR in numbers else None)
