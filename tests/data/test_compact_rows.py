"""Small counts of sparse rows take two bytes each; everything else is read as before."""

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core.data import compact_rows
from perturbfm_core.data.h5ad import read_matrix
from perturbfm_core.errors import DatasetError


def written(path, X):
    anndata.AnnData(X=X).write_h5ad(path)
    return path


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(0.7, (30, 8)).astype(np.float32)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8])
def test_small_counts_take_two_bytes(tmp_path, monkeypatch, counts, kind):
    monkeypatch.setattr(compact_rows, "_PIECE", 7)
    path = written(tmp_path / "a.h5ad", sp.csr_matrix(counts.astype(kind)))
    _, _, X = read_matrix(path, None, compact=True)
    assert (X.dtype, X.indices.dtype, X.format) == (np.uint16, np.int32, "csr")
    np.testing.assert_array_equal(X.toarray(), counts)


@pytest.mark.parametrize(
    "other",
    [
        lambda X: sp.csr_matrix(X * 0.5),
        lambda X: sp.csr_matrix(-X),
        lambda X: sp.csr_matrix(X * 70_000),
        lambda X: sp.csr_matrix(np.where(X > 1, np.nan, X)),
        sp.csc_matrix,
        np.asarray,
    ],
    ids=["fractions", "negative", "large", "nan", "columns", "dense"],
)
def test_other_values_are_read_as_they_are(tmp_path, counts, other):
    path = written(tmp_path / "a.h5ad", other(counts))
    expected, got = (read_matrix(path, None, compact=compact)[2] for compact in (False, True))
    assert got.dtype == expected.dtype
    dense = [X.toarray() if sp.issparse(X) else X for X in (expected, got)]
    np.testing.assert_array_equal(*dense)


@pytest.mark.parametrize(("part", "value"), [("indices", 99), ("indptr", 10**6)])
def test_damaged_rows_are_refused(tmp_path, counts, part, value):
    path = written(tmp_path / "a.h5ad", sp.csr_matrix(counts))
    with h5py.File(path, "a") as file:
        file[f"X/{part}"][3] = value
    with pytest.raises(DatasetError, match="damaged"):
        read_matrix(path, None, compact=True)
