"""Reading of h5ad files: their tables and one matrix, any damage reported in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import scipy.sparse as sp

from perturbfm_core.errors import DatasetError


def read_obs(path: Path) -> pd.DataFrame:
    """Return the obs table of an h5ad file."""
    with _open_h5ad(path) as file:
        from anndata.io import read_elem

        return read_elem(file["obs"])


@contextlib.contextmanager
def _open_h5ad(path: Path) -> Iterator[Any]:
    """Open an h5ad file; any error while it is open is reported as a damaged file, in one line."""
    import h5py

    if not path.is_file():
        msg = f"{path} does not exist; give the path of an h5ad file"
        raise DatasetError(msg)
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in ("obs", "var") if key not in file]
            if missing:
                msg = f"{path} is HDF5 but no h5ad file ({', '.join(missing)} not found)"
                raise DatasetError(msg)
            yield file
    except DatasetError:
        raise
    except Exception as exc:
        # h5py and anndata raise OSError, KeyError, ValueError and exceptions of their own for damaged files.
        detail = " ".join(str(exc).split())[:160]
        msg = f"{path} cannot be read as h5ad, it is truncated or not HDF5 ({detail}); fetch it again"
        raise DatasetError(msg) from exc


def read_matrix(path: Path, layer: str | None) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Return (obs, var, matrix) of an h5ad file: ``X``, or the named layer.

    Raises
    ------
    DatasetError
        If the file is damaged, or lacks the matrix.
    """
    from anndata.io import read_elem

    with _open_h5ad(path) as file:
        where = "X" if layer is None else f"layers/{layer}"
        if where not in file:
            known = sorted(file["layers"]) if "layers" in file else []
            msg = f"{path} has no {where}; layers: {known or 'none'}"
            raise DatasetError(msg)
        X = read_elem(file[where])
        obs, var = read_elem(file["obs"]), read_elem(file["var"])
    if getattr(X, "ndim", 2) != 2 or X.shape != (len(obs), len(var)):
        msg = f"{path}: matrix is {getattr(X, 'shape', '?')}, obs and var say {(len(obs), len(var))}"
        raise DatasetError(msg)
    if sp.issparse(X):
        try:
            # The short check, done on reading, does not look at the indices; a wrong one ends the process later.
            X.check_format(full_check=True)
        except ValueError as exc:
            msg = f"{path}: sparse matrix {where} is damaged ({exc}); fetch or write the file again"
            raise DatasetError(msg) from exc
    return obs, var, X
