"""Sparse matrices of h5ad files whose indices point outside are refused, whatever the layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.h5ad import read_matrix
from perturbfm_core.errors import DatasetError


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("part", "at", "value"),
    [("indices", 0, 10_000), ("indices", 0, -1), ("indptr", 1, 99), ("indptr", 1, -5)],
)
def test_a_sparse_matrix_with_wrong_indices_is_refused(
    tmp_path: Path, form: Any, part: str, at: int, value: int
) -> None:
    path = tmp_path / "a.h5ad"
    X = form(np.eye(6, 5, dtype=np.float32))
    obs = pd.DataFrame(index=[f"c{i}" for i in range(6)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(5)])
    anndata.AnnData(X, obs, var).write_h5ad(path)
    assert read_matrix(path, None)[2].shape == (6, 5)
    with h5py.File(path, "a") as file:
        file["X"][part][at] = value
    with pytest.raises(DatasetError, match=r"damaged|cannot be read") as caught:
        read_matrix(path, None)
    assert "\n" not in str(caught.value)


def test_a_column_of_a_newer_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    obs = pd.DataFrame({"pert": ["A"] * 6, "odd": range(6)}, index=[f"c{i}" for i in range(6)])
    anndata.AnnData(np.eye(6, dtype=np.float32), obs).write_h5ad(path)
    with h5py.File(path, "a") as file:
        file["obs/odd"].attrs["encoding-version"] = "9.0"
    with pytest.raises(
        DatasetError, match=r"obs/odd is a column in a format .*'array' 9\.0; .*newer anndata"
    ):
        read_matrix(path, None)
