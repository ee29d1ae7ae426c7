"""Tables and matrix of an AnnData object, by the same rules as those of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core.data.h5ad import RAW, check_not_empty, in_obsm, means_raw, read_with
from perturbfm_core.data.structure import checked_matrix
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import FloatArray

if TYPE_CHECKING:
    from anndata import AnnData

ORIGIN = "the AnnData object"
# Layers in which `PerturbDataset.to_anndata` states deltas and controls -> fields of `Values`.
STATED = {"delta": "delta", "X_control": "x_control"}


def takes_raw(adata: AnnData, layer: str | None) -> bool:
    """Return whether a layer name stands for `raw`; a layer of the object of that name comes first."""
    return adata.raw is not None and means_raw(layer, adata.layers)


def object_matrix(adata: AnnData, layer: str | None) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Return (obs, var, matrix) of an object: ``X``, the named layer, or ``raw`` with its own genes; all are copies.

    Parameters
    ----------
    adata
        The object, in memory or on disk.
    layer
        Name of the layer, None for ``X``.

    Raises
    ------
    DatasetError
        If it has no cells or genes, or lacks the matrix, or what it has is no matrix of numbers.
    """
    raw = takes_raw(adata, layer)
    known = [*adata.layers, *(["raw"] if adata.raw is not None else [])]
    where = "raw.X" if raw else "X" if layer is None else f"layers/{layer}"
    obs, var = adata.obs.copy(), (adata.raw.var if raw else adata.var).copy()
    obs.columns = [str(c) for c in obs.columns]
    check_not_empty(obs, var, ORIGIN)
    X = adata.raw.X if raw else adata.X if layer is None else adata.layers.get(layer)
    if X is None:
        msg = f"{ORIGIN} has no {where}; layers: {known or 'none'}{in_obsm(adata.obsm)}"
        raise DatasetError(msg)
    if not hasattr(X, "copy"):
        # On disk: a sparse matrix of anndata, or a dense one of h5py.
        X = X.to_memory() if hasattr(X, "to_memory") else X[:]
    return obs, var, checked_matrix(X.copy(), f"{ORIGIN}: {where}")


def stated_layers(adata: AnnData) -> dict[str, Any]:
    """Return the layers with deltas and controls that the data set of an object states, as {field of `Values`: float32}."""
    layers = {field: adata.layers.get(name) for name, field in STATED.items()}
    return {field: dense_layer(X) for field, X in layers.items() if X is not None}


def dense_layer(X: Any) -> FloatArray:
    """Return a layer, sparse or dense, as it is kept in `Values`: dense float32."""
    if not isinstance(X, np.ndarray):
        # On disk, or sparse.
        X = X.to_memory() if hasattr(X, "to_memory") else X
        X = X.toarray() if sp.issparse(X) else X[:]
    return np.ascontiguousarray(X, dtype=np.float32)


def object_matrices(adata: AnnData, but: str | None) -> list[str]:
    """Return what other matrices of an object hold, as `other_matrices` does of a file; layer `but` is left out."""
    named = {"no --layer": (None, adata.X), **{f"--layer {k}": (k, X) for k, X in adata.layers.items()}}
    if adata.raw is not None:
        named["--from-raw"] = (RAW[0], adata.raw.X)
    return read_with(
        (option, X.data if sp.issparse(X) else X)
        for option, (layer, X) in named.items()
        if X is not None and layer != but and not (but in RAW and layer == RAW[0])
    )
