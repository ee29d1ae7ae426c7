"""Import of two layers of a file that hold the means over two halves of each condition's cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.halves import Halves, log1p_or_delta
from perturbfm_core.data.importing import import_h5ad
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import FloatArray

# Share of the values in which a matrix lies between its halves, at least.
_BETWEEN = 0.75


def read_half_layers(
    path: Path, mapping: ColumnMapping, layers: tuple[str, str], ds: PerturbDataset
) -> Halves:
    """Return the data set as either half of the cells has it.

    Parameters
    ----------
    path
        The h5ad file that `ds` was imported from.
    mapping
        The mapping of its columns.
    layers
        Names of the layers with the two halves, in the scale of the matrix.
    ds
        The imported data set.

    Raises
    ------
    DatasetError
        If a layer is missing, both are the same, one is the matrix itself, the matrix does not lie between them, or the
        data are cells, whose halves are drawn.
    """
    if ds.metadata.level == "cell":
        msg = "--half-layers is for means over cells; halves of cells are drawn (give --level condition if rows are means)"
        raise DatasetError(msg)
    first, second = (
        import_h5ad(path, mapping.model_copy(update={"layer": name}), name=ds.name) for name in layers
    )
    a, b, whole = (_dense(log1p_or_delta(x)) for x in (first, second, ds))
    if np.array_equal(a, b):
        msg = f"layers {layers[0]!r} and {layers[1]!r} hold the same values; --half-layers takes two disjoint halves"
        raise DatasetError(msg)
    for name, half in zip(layers, (a, b), strict=True):
        if np.allclose(half, whole, rtol=1e-5, atol=1e-6):
            msg = f"layer {name!r} holds the values of the matrix itself; --half-layers takes two disjoint halves of its cells"
            raise DatasetError(msg)
    differ = a != b
    # Scores such as z grow with the number of cells; means over all cells lie between those over two halves.
    if ds.metadata.space != "zscore" and differ.any():
        slack = 0.01 * np.abs(a - b) + 1e-5
        between = (whole >= np.minimum(a, b) - slack) & (whole <= np.maximum(a, b) + slack)
        share = float(between[differ].mean())
        if share < _BETWEEN:
            msg = (
                f"layers {layers[0]!r} and {layers[1]!r} are not the halves of the matrix: it lies between them in {share:.0%} "
                "of the values; --half-layers takes means over two disjoint halves of each condition's cells"
            )
            raise DatasetError(msg)
    return first, second


def _dense(X: Any) -> FloatArray:
    return np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float64)
