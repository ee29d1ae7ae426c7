"""Means over two halves of each condition's cells, kept beside data without cells for their noise-free bounds."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.npz import read_npz
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import FloatArray
from perturbfm_core.store.atomic import write_atomic

HALVES_FILE = "halves.npz"
Halves = tuple[PerturbDataset, PerturbDataset]


def write_halves(folder: Path, ds: PerturbDataset, halves: Halves) -> None:
    """Write the halves beside the artifact of a data set.

    Parameters
    ----------
    folder
        Directory of the artifact.
    ds
        The data set.
    halves
        Its halves (see `read_half_layers`).
    """
    file = io.BytesIO()
    first, second = (log1p_or_delta(half) for half in halves)
    np.savez_compressed(file, first=first, second=second, content_sha256=np.asarray(ds.computed_sha256))
    write_atomic(folder / HALVES_FILE, file.getvalue())


def halves_of(ds: PerturbDataset) -> Halves | None:
    """Return the halves that lie beside a data set, None where there are none.

    Raises
    ------
    DatasetError
        If the file is damaged or belongs to other data.
    """
    path = None if ds.path is None else ds.path / HALVES_FILE
    if path is None or not path.is_file():
        return None
    arrays = read_npz(path)
    shape = (ds.n_obs, ds.n_genes)
    fits = str(arrays.get("content_sha256")) == ds.content_sha256
    if not fits or any(name not in arrays or arrays[name].shape != shape for name in ("first", "second")):
        msg = f"{path} belongs to other data than {ds.name!r}; import them again with --half-layers, or remove the file"
        raise DatasetError(msg)
    return _with_values(ds, arrays["first"]), _with_values(ds, arrays["second"])


def halves_digest(ds: PerturbDataset) -> str:
    """Return the SHA-256 of the file of halves that lies beside a data set, "" where there is none."""
    path = None if ds.path is None else ds.path / HALVES_FILE
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_values(ds: PerturbDataset, X: FloatArray) -> PerturbDataset:
    """Return the rows of a data set with other deltas, or other log1p expression."""
    changes: dict[str, Any] = {"content_sha256": ""}
    if ds.values.delta is not None:
        values = Values(delta=X)
    else:
        values = Values(expression=X)
        changes |= {"space": "log1p", "normalization": None}
    return PerturbDataset(ds.obs, ds.genes, values, ds.metadata.model_copy(update=changes))


def log1p_or_delta(ds: PerturbDataset) -> FloatArray:
    """Return float32 [N, G], the deltas of data of differences, else log1p expression."""
    X: Any = ds.values.delta if ds.values.delta is not None else ds.expression
    return np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float32)
