"""Import of two layers of a file that hold the means over two halves of each condition's cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.halves import Halves, log1p_or_delta
from perturbfm_core.data.importing import import_h5ad
from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.errors import DatasetError


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
        If a layer is missing, both are the same, or the data are cells, whose halves are drawn.
    """
    if ds.metadata.level == "cell":
        msg = "--half-layers is for means over cells; halves of cells are drawn (give --level condition if rows are means)"
        raise DatasetError(msg)
    first, second = (
        import_h5ad(path, mapping.model_copy(update={"layer": name}), name=ds.name) for name in layers
    )
    if np.array_equal(log1p_or_delta(first), log1p_or_delta(second)):
        msg = f"layers {layers[0]!r} and {layers[1]!r} hold the same values; --half-layers takes two disjoint halves"
        raise DatasetError(msg)
    return first, second
