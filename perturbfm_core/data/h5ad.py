"""Reading of AnnData in h5ad files and zarr folders: their tables and one matrix, any damage reported in one line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.compact_rows import read_compact
from perturbfm_core.data.file_kinds import kind_of, kind_of_hdf5, refuse_folder
from perturbfm_core.data.stored_rows import stored_rows
from perturbfm_core.data.structure import check_size, checked_matrix
from perturbfm_core.data.zarr_storage import open_zarr
from perturbfm_core.errors import DatasetError
from perturbfm_core.parsing import open_regular

# Group in which anndata 0.7 kept the categories of the columns of a table.
_CATEGORIES = "__categories"
# What other programs write that anndata refuses, by its error.
_CATEGORY_FAULTS = {
    "codes need to be": "has codes that stand for none of its categories, as missing ones of other programs; give them one",
    "categories must be unique": "lists a category twice, which anndata cannot read; make it text where it can be read",
}

# Files by which a folder is a zarr store, of its format 3 or 2.
_ZARR_MARKS = ("zarr.json", ".zgroup")
# Names of `raw`, the matrix that was set aside before genes were selected, among the layers.
RAW = ("raw", "raw/X", "raw.X")


def read_obs(path: Path) -> pd.DataFrame:
    """Return the obs table of an h5ad file."""
    with open_h5ad(path) as file:
        return _table(file, "obs", path)


def read_var(path: Path) -> pd.DataFrame:
    """Return the var table of an h5ad file."""
    with open_h5ad(path) as file:
        return _table(file, "var", path)


@contextlib.contextmanager
def open_h5ad(path: Path) -> Iterator[Any]:
    """Open an h5ad file or zarr folder; any error while it is open is raised as damage, in one line."""
    import h5py

    if not path.exists():
        msg = f"{path} does not exist; give the path of an h5ad file"
        raise DatasetError(msg)
    if path.is_dir() and any((path / name).is_file() for name in _ZARR_MARKS):
        with open_zarr(path, "write it again") as group:
            _check_tables(group, path, "a zarr folder but no AnnData")
            yield group
        return
    refuse_folder(path)
    open_regular(path, DatasetError).close()
    try:
        with warnings.catch_warnings():
            # anndata says of an old file that it is old; what cannot be read of it is an error here.
            warnings.simplefilter("ignore")
            with h5py.File(path, "r") as file:
                _check_tables(file, path, "HDF5 but no h5ad file")
                yield file
    except DatasetError:
        raise
    except Exception as exc:
        # h5py and anndata raise OSError, KeyError, ValueError and exceptions of their own for damaged files.
        detail = " ".join(str(exc).split())[:160] or type(exc).__name__
        what, cure = kind_of(path, str(exc))
        msg = f"{path} cannot be read as h5ad, it is {what} ({detail}); {cure}"
        raise DatasetError(msg) from exc


def _check_tables(file: Any, path: Path, otherwise: str) -> None:
    if "mod" in file and "X" not in file:
        names = list(file["mod"])
        msg = (
            f"{path} is MuData, with the modalities {', '.join(names) or 'none'}; write one of them as h5ad, e.g. "
            f"mdata[{(names if names and 'rna' not in names else ['rna'])[0]!r}].write_h5ad('FILE.h5ad')"
        )
        raise DatasetError(msg)
    missing = [key for key in ("obs", "var") if key not in file]
    if missing:
        msg = f"{path} is {otherwise} ({', '.join(missing)} not found){kind_of_hdf5(file)}"
        raise DatasetError(msg)


def read_matrix(
    path: Path, layer: str | None, *, compact: bool = False, stream: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Return (obs, var, matrix) of an h5ad file: ``X``, the named layer, or ``raw`` with its own genes.

    Parameters
    ----------
    path
        The file.
    layer
        Name of the layer, None for ``X``.
    compact
        Whether small counts of sparse rows are read piece by piece into two bytes each.
    stream
        Whether a large matrix is not read but returned as `StoredRows` (CSR and dense ones, not CSC).

    Raises
    ------
    DatasetError
        If the file is damaged, has no cells or genes, or lacks the matrix, or what it has is no matrix of numbers.
    """
    with open_h5ad(path) as file:
        raw = _raw(file) if _is_raw(file, layer) else None
        obs, var = _table(file, "obs", path), _table(file, f"{raw}var" if raw else "var", path)
        check_not_empty(obs, var, str(path))
        X = _matrix(file, path, layer, (len(obs), len(var)), raw=raw, compact=compact, stream=stream)
    return obs, var, X


def check_not_empty(obs: pd.DataFrame, var: pd.DataFrame, what: str) -> None:
    """Refuse tables without cells or genes.

    Parameters
    ----------
    obs, var
        Tables of cells and genes.
    what
        Name of the file or object, for the message.

    Raises
    ------
    DatasetError
        If one of them has no row.
    """
    for table, rows in ((obs, "cells (rows of obs)"), (var, "genes (rows of var)")):
        if not len(table):
            msg = f"{what} has 0 {rows}; nothing is left to import, check how it was filtered"
            raise DatasetError(msg)


@contextlib.contextmanager
def _opened_element(path: Path, where: str) -> Iterator[Any]:
    with open_h5ad(path) as file:
        yield file[where]


def reads_raw(path: Path, layer: str | None) -> bool:
    """Return whether a layer name stands for `raw`; a layer of the file of that name comes first."""
    with open_h5ad(path) as file:
        return _is_raw(file, layer)


def _is_raw(file: Any, layer: str | None) -> bool:
    return _raw(file) is not None and means_raw(layer, file.get("layers", {}))


def _raw(file: Any) -> str | None:
    """Return what the names of the parts of `raw` begin with: those of anndata 0.6 and before have a point."""
    return next((begin for begin in ("raw/", "raw.") if f"{begin}X" in file and f"{begin}var" in file), None)


def means_raw(layer: str | None, layers: Container[str]) -> bool:
    """Return whether the name of a layer stands for `raw`; a layer of that name comes first."""
    return layer in RAW and (layer != RAW[0] or layer not in layers)


def other_matrices(path: Path, but: str | None) -> list[str]:
    """Return what other matrices of a file hold, with the options that read them; layer `but` is left out.

    Whole numbers are called counts, other values without negative ones unscaled. Only the first values of each
    matrix are looked at. A file that cannot be read has none.
    """
    with contextlib.suppress(DatasetError), open_h5ad(path) as file:
        layers = list(file["layers"]) if "layers" in file else []
        places = [(None, "X", "no --layer"), *((k, f"layers/{k}", f"--layer {k}") for k in layers)]
        if begin := _raw(file):
            places.append((RAW[0], f"{begin}X", "--from-raw"))
        return read_with(
            (option, element["data"] if hasattr(element, "keys") and "data" in element else element)
            for layer, where, option in places
            if (element := file.get(where)) is not None
            and layer != but
            and not (but in RAW and layer == RAW[0])
        )
    return []


def read_with(matrices: Iterable[tuple[str, Any]]) -> list[str]:
    """Return which options read counts or other values without negative ones, counts first.

    Parameters
    ----------
    matrices
        (option that reads a matrix, the matrix or the stored values of a sparse one).
    """
    found: list[tuple[int, str]] = []
    for option, data in matrices:
        if getattr(data, "ndim", 0) and data.dtype.kind in "iuf" and data.shape[0]:
            head = np.asarray(data[: 10_000 if data.ndim == 1 else 20]).reshape(-1)
            if np.isfinite(head).all() and (head >= 0).all():
                whole = bool((head == np.rint(head)).all())
                found.append(
                    (not whole, f"{'counts' if whole else 'unscaled values'} are read with {option}")
                )
    return [text for _, text in sorted(found)]


# ---- the matrix --------------------------------------------------------------------------------------------


def _matrix(
    file: Any,
    path: Path,
    layer: str | None,
    shape: tuple[int, int],
    *,
    raw: str | None,
    compact: bool,
    stream: bool,
) -> Any:
    from anndata.io import read_elem

    where = f"{raw}X" if raw else "X" if layer is None else f"layers/{layer}"
    known = [*file.get("layers", ()), *(["raw"] if _raw(file) else [])]
    if layer == "" or where not in file:
        msg = f"{path} has no {where}; layers: {known or 'none'}{in_obsm(file.get('obsm', ()))}"
        raise DatasetError(msg)
    element = file[where]
    if stream and not _is_null(element):
        rows = stored_rows(lambda: _opened_element(path, where), element, shape, f"{path}: {where}")
        if rows is not None:
            return rows
    _check_declared(element, f"{path}: {where}", shape)
    X = read_compact(element, shape) if compact else None
    if X is None and not _is_null(element):
        X = read_elem(element)
    if X is None:
        others = f"name a layer (--layer); layers: {known}" if known else "it has no layers either"
        msg = f"{path}: {where} is empty; {others}{in_obsm(file.get('obsm', ()))}"
        raise DatasetError(msg)
    X = checked_matrix(X, f"{path}: {where}")
    if X.shape != shape:
        msg = f"{path}: matrix is {X.shape}, obs and var say {shape}"
        raise DatasetError(msg)
    return X


def in_obsm(names: Iterable[str]) -> str:
    """Return what obsm holds, for the end of a message; some programs keep the expression of chosen genes there."""
    found = ", ".join(sorted(map(str, names)))
    return (
        f"; obsm holds {found}: to import expression from there, make it X, with its genes as var"
        if found
        else ""
    )


def _is_null(element: Any) -> bool:
    """Return whether an element stands for nothing: what anndata writes where an object has no X."""
    return getattr(element, "shape", ()) is None or element.attrs.get("encoding-type") == "null"


def _check_declared(element: Any, what: str, shape: tuple[int, int]) -> None:
    """Check the shape and the size that an element declares, before anything of it is read."""
    if hasattr(element, "keys"):
        for name in ("data", "indices", "indptr"):
            part = element.get(name)
            check_size(int(getattr(part, "nbytes", 0) or 0), f"{what}/{name}")
    elif element.shape is not None and element.shape != () and tuple(element.shape) != shape:
        msg = f"{what}: matrix is {tuple(element.shape)}, obs and var say {shape}"
        raise DatasetError(msg)
    else:
        check_size(int(getattr(element, "nbytes", 0) or 0), what)


# ---- tables ------------------------------------------------------------------------------------------------


def _table(file: Any, key: str, path: Path) -> pd.DataFrame:
    """Return obs or var of any version of the format."""
    from anndata.io import read_elem

    element = file[key]
    if not hasattr(element, "keys"):
        table = _from_records(element, file.get("uns"), f"{path}: {key}")
    elif {"encoding-type", "column-order"} <= set(element.attrs) and _CATEGORIES not in element:
        _check_columns(element, f"{path}: {key}")
        try:
            table = read_elem(element)
        except Exception:
            # What anndata raises differs by version; whatever is not a column of an unknown format is raised as it was.
            _check_formats(element, f"{path}: {key}")
            raise
    else:
        table = _from_columns(element, f"{path}: {key}")
    table.columns = [str(c) for c in table.columns]
    return table


def _check_columns(group: Any, what: str) -> None:
    """Check the size of the columns of a table, and that each is one."""
    for name in group:
        column = group[name]
        # A categorical column, or one with missing values, is a group of two.
        for part in [column[k] for k in column] if hasattr(column, "keys") else (column,):
            check_size(int(getattr(part, "nbytes", 0) or 0), f"{what}/{name}")
            if getattr(part, "ndim", 1) > 1:
                msg = f"{what}/{name} has {part.ndim} axes, a column has one"
                raise DatasetError(msg)


def _check_formats(group: Any, what: str) -> None:
    """Name the first column of a table that the installed anndata does not read, by its format or its categories."""
    from anndata.io import read_elem

    for name in group:
        try:
            read_elem(group[name])
        except Exception as error:
            # Other errors are of damaged files; the type has no public name.
            if type(error).__name__ == "IORegistryError":
                found = (
                    f"{group[name].attrs.get('encoding-type')!r} {group[name].attrs.get('encoding-version')}"
                )
                msg = (
                    f"{what}/{name} is a column in a format that this anndata does not know ({found}; written by a newer "
                    "anndata?); update anndata, or remove the column and write the file again"
                )
                raise DatasetError(msg) from error
            problem = next((said for key, said in _CATEGORY_FAULTS.items() if key in str(error)), None)
            if problem is not None:
                msg = f"{what}/{name} {problem}, or remove the column, and write the file again"
                raise DatasetError(msg) from error


def _from_records(records: Any, uns: Any, what: str) -> pd.DataFrame:
    """Return a table of anndata 0.6 and before: one data set of records, its categories in ``uns``."""
    if not records.dtype.names:
        msg = f"{what} is no table; open the file with a current anndata and save it again"
        raise DatasetError(msg)
    check_size(int(records.nbytes), what)
    values = records[()]
    columns = {name: _decoded(values[name]) for name in values.dtype.names}
    index, *others = columns
    table = pd.DataFrame({name: columns[name] for name in others}, index=columns[index])
    for name in others:
        kept = None if uns is None else uns.get(f"{name}_categories")
        if kept is not None and columns[name].dtype.kind in "iu":
            table[name] = _categorical(columns[name], _decoded(np.atleast_1d(kept[()])))
    return table


def _from_columns(group: Any, what: str) -> pd.DataFrame:
    """Return a table stored as a group of columns without a declared encoding, as other tools write it."""
    from anndata.io import read_elem

    named = group.attrs.get("_index", "_index")
    index = next((k for k in (str(named), "_index", "index") if k in group), None)
    if index is None:
        msg = f"{what} is no table with an index; open the file with a current anndata and save it again"
        raise DatasetError(msg)
    _check_columns(group, what)
    listed = group.attrs.get("column-order")
    names = [k for k in group if k != _CATEGORIES] if listed is None else [str(c) for c in listed]
    columns: dict[str, Any] = {}
    for name in names:
        if name == index:
            continue
        kept = group.get(f"{_CATEGORIES}/{name}")
        # The reference of codes to their categories is not read: programs that copy a file lose it.
        values = read_elem(group[name]) if kept is None else group[name][()]
        if isinstance(values, np.ndarray):
            values = _decoded(values)
            if kept is not None and values.dtype.kind in "iu":
                values = _categorical(values, _decoded(np.atleast_1d(kept[()])))
        columns[name] = values
    return pd.DataFrame(columns, index=_decoded(np.asarray(read_elem(group[index]))))


def _categorical(codes: Any, categories: Any) -> Any:
    """Return codes as a categorical column, with negative ones missing; codes that fit no category are left as they are."""
    # Some programs write -1 without a sign.
    most = np.iinfo(codes.dtype).max if codes.dtype.kind == "u" else -1
    missing = (codes < 0) | ((codes == most) & (most >= len(categories)))
    if (codes[~missing] >= len(categories)).any():
        return codes
    return pd.Categorical.from_codes(np.where(missing, -1, codes.astype(np.int64)), categories)


def _decoded(values: Any) -> Any:
    """Return byte strings of an array as text."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    if values.dtype.kind == "O":
        return np.asarray([v.decode("utf-8") if isinstance(v, bytes) else v for v in values], dtype=object)
    return values
