"""Matrices of files: wrong types and sparse structures are refused on reading, in h5ad, npz and zarr."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem

from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.h5ad import other_matrices, read_matrix, read_obs, reads_raw
from perturbfm_core.data.npz import read_npz
from perturbfm_core.data.structure import check_pointers, checked_matrix
from perturbfm_core.errors import DatasetError
from tests.fuzz.arrays import ARRAYS, H5AD, MEMBERS, zarr_index

DATA = np.array([1.0, 2.0, 3.0], dtype=np.float32)
INDICES = np.array([0, 3, 1])
INDPTR = np.array([0, 2, 2, 3])


@pytest.mark.parametrize(
    ("data", "indices", "indptr", "shape", "message"),
    [
        (DATA, INDICES + 1, INDPTR, (3, 4), "index 4 is outside 0 to 3"),
        (DATA, INDICES - 1, INDPTR, (3, 4), "index -1 is outside 0 to 3"),
        (DATA, INDICES, INDPTR, (3, 3), "index 3 is outside 0 to 2"),
        (DATA, INDICES.astype(np.uint32) + 10**6, INDPTR, (3, 4), "index 1000003 is outside"),
        (DATA, INDICES.astype(float), INDPTR, (3, 4), "indices holds float64"),
        (DATA, INDICES, np.array([0, 2, 1, 3]), (3, 4), "pointers of line 1 run backwards"),
        (DATA, INDICES, np.array([0, 2, 1, 3], dtype=np.uint64), (3, 4), "pointers of line 1 run backwards"),
        (DATA, INDICES, np.array([0, -1, 1, 3]), (3, 4), "pointers of line 0 run backwards"),
        (DATA, INDICES, np.array([1, 2, 2, 3]), (3, 4), "run from 1 to 3, not from 0 to 3"),
        (DATA, INDICES, np.array([0, 2, 2, 9]), (3, 4), "run from 0 to 9, not from 0 to 3"),
        (DATA, INDICES, INDPTR, (4, 4), "4 pointers, 4 lines need 5"),
        (DATA[:2], INDICES, INDPTR, (3, 4), "2 values but 3 indices"),
        (DATA[None], INDICES, INDPTR, (3, 4), "data is no flat array"),
        (DATA, INDICES, INDPTR, (3, -4), "its shape is"),
    ],
)
def test_pointers(data, indices, indptr, shape, message):
    check_pointers(DATA, INDICES, INDPTR, (3, 4), "X")
    with pytest.raises(DatasetError, match=f"X: the sparse matrix is damaged .*{message}"):
        check_pointers(data, indices, indptr, shape, "X")


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((2, 2), dtype=complex), r"holds complex numbers \(complex128\)"),
        (sp.csr_array(np.eye(2, dtype=np.complex64)), r"holds complex numbers \(complex64\)"),
        (np.full((2, 2), "a"), "holds text"),
        (np.full((2, 2), b"a"), "holds text"),
        (np.full((2, 2), None, dtype=object), "holds objects"),
        (np.ones((2, 2), dtype=bool), "holds true and false"),
        (sp.csc_array(np.eye(2, dtype=bool)), "holds true and false"),
        (np.zeros((2, 2), dtype=[("a", "i4")]), "holds records"),
        (np.zeros((2, 2), dtype="M8[s]"), "holds dates"),
        (np.zeros(3), "has 1 axes"),
        (np.float64(3), "has 0 axes"),
        ({"a": 1}, "is no matrix of numbers"),
        (sp.coo_array(np.eye(2)), "is sparse in the format coo"),
    ],
)
def test_other_than_numbers(X, message):
    with pytest.raises(DatasetError, match=f"^X {message}"):
        checked_matrix(X, "X")


@pytest.mark.parametrize("dtype", [np.float16, ">f4", ">f8", np.longdouble, np.int8, ">i4", np.uint64])
def test_numbers_of_any_width_and_byte_order(dtype):
    X = np.array([[0, 1], [2, 3]])
    dense = checked_matrix(X.astype(dtype), "X")
    assert dense.dtype.isnative
    assert dense.dtype.itemsize in (1, 4, 8)
    np.testing.assert_array_equal(dense, X)
    whole = sp.csr_array(X)
    stored = sp.csc_array(X) if dtype == np.int8 else whole
    stored = stored.astype(np.float32)
    np.testing.assert_array_equal(checked_matrix(stored, "X").toarray(), X)


# ---- h5ad --------------------------------------------------------------------------------------------------------


@pytest.fixture
def h5ad(tmp_path) -> Path:
    """Write a sparse file of 24 cells and 12 genes."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"pert": pd.Categorical(["ctrl", "A", "B", "A+B"] * 6), "line": pd.Categorical(["K"] * 24)},
        index=[f"c{i}" for i in range(24)],
    )
    X = sp.csr_matrix(rng.poisson(1.5, (24, 12)).astype(np.float32))
    var = pd.DataFrame(index=[f"g{i}" for i in range(12)])
    anndata.AnnData(X=X, obs=obs, var=var, layers={"kept": X}).write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


GOOD = {
    # What is read all the same, and right.
    "indices of 64 bits", "indices unsigned", "X half", "X big-endian", "genes empty", "genes of numbers", "genes with nul",
    "categories of numbers", "layers a number", "uns of junk", "indices repeated", "indices unsorted", "genes repeated",
    "values not finite", "X nan", "codes beyond", "codes negative", "columns not named", "columns of numbers", "X transposed",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(H5AD) - GOOD))
def test_damaged_h5ad(h5ad, name):
    import random

    with h5py.File(h5ad, "r+") as file:
        H5AD[name](file, random.Random(0))
    with pytest.raises(DatasetError) as caught:
        read_matrix(h5ad, None)
    assert str(h5ad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unsorted_and_repeated_indices_are_put_in_order_and_summed(h5ad):
    from perturbfm_core.data.matrix import as_csr

    with h5py.File(h5ad, "r+") as file:
        n = len(file["X/data"])
        for key, value in (("data", np.ones(n, "f4")), ("indices", np.zeros(n, "i4"))):
            del file[f"X/{key}"]
            file[f"X/{key}"] = value
        stored = np.diff(file["X/indptr"][()])
    _, _, X = read_matrix(h5ad, None)
    out = as_csr(X)
    assert out.has_canonical_format
    np.testing.assert_array_equal(out.toarray()[:, 0], stored)
    assert out.toarray()[:, 1:].sum() == 0


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("layers", [False, True])
def test_no_X_and_layers_or_none(h5ad, bare, layers):
    with h5py.File(h5ad, "r+") as file:
        del file["X"]
        if bare:
            file.create_dataset("X", data=h5py.Empty("f"))
        else:
            write_elem(file, "X", None)
        if not layers:
            del file["layers"]
    hint = r"name a layer .*\['kept'\]" if layers else "it has no layers either"
    with pytest.raises(DatasetError, match=f"in.h5ad: X is empty; {hint}"):
        read_matrix(h5ad, None)
    if layers:
        assert read_matrix(h5ad, "kept")[2].shape == (24, 12)
    with pytest.raises(DatasetError, match=r"in\.h5ad has no layers/gone; layers:"):
        read_matrix(h5ad, "gone")


@pytest.mark.parametrize(
    ("cells", "genes", "message"), [(0, 12, "0 cells"), (24, 0, "0 genes"), (0, 0, "0 cells")]
)
def test_no_cells_or_no_genes(h5ad, tmp_path, cells, genes, message):
    a = anndata.read_h5ad(h5ad)[:cells, :genes].copy()
    a.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(DatasetError, match=f"none.h5ad has {message}"):
        read_matrix(tmp_path / "none.h5ad", None)


# ---- old and foreign h5ad ----------------------------------------------------------------------------------------


def records(file, name: str, index: list[str], columns: dict[str, list[str]], text: str) -> None:
    """Write a table as anndata 0.6 did: records, with the categories in ``uns``."""
    kind = {"S": "S20", "O": h5py.string_dtype()}[text]
    table = np.zeros(len(index), dtype=[("index", kind), *((c, "i1") for c in columns)])
    table["index"] = [x.encode() for x in index] if text == "S" else index
    for column, values in columns.items():
        codes = pd.Categorical(values)
        table[column] = codes.codes
        file.create_dataset(f"uns/{column}_categories", data=np.array(codes.categories, dtype="S"))
    file[name] = table


@pytest.mark.parametrize("text", ["S", "O"])
@pytest.mark.parametrize("sparse", [False, True])
def test_files_of_anndata_before_0_7(tmp_path, text, sparse):
    X = np.arange(12, dtype=np.float32).reshape(4, 3)
    perts, lines = ["ctrl", "A", "B", "A"], ["K", "K", "K", "K"]
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        if sparse:
            stored = sp.csr_array(X)
            for key in ("data", "indices", "indptr"):
                file[f"X/{key}"] = getattr(stored, key)
            file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = "csr", X.shape
        else:
            file["X"] = X
        records(file, "obs", ["c0", "c1", "c2", "c3"], {"pert": perts, "line": lines}, text)
        records(file, "var", ["g0", "g1", "g2"], {}, text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        obs, var, found = read_matrix(tmp_path / "old.h5ad", None)
    assert obs["pert"].tolist() == perts
    assert obs["line"].tolist() == lines
    assert [*map(str, obs.index)] == ["c0", "c1", "c2", "c3"]
    assert [*map(str, var.index)] == ["g0", "g1", "g2"]
    np.testing.assert_array_equal(found.toarray() if sparse else found, X)


def test_tables_of_anndata_0_7_and_of_other_tools(tmp_path):
    X = np.ones((3, 2), dtype=np.float32)
    with h5py.File(tmp_path / "in.h5ad", "w") as file:
        file["X"] = X
        file["obs/_index"] = np.array([b"c0", b"c1", b"c2"])
        file["obs/pert"] = np.array([0, 1, -1], dtype="i1")
        file["obs/__categories/pert"] = np.array([b"ctrl", b"A"])
        file["obs/n"] = np.arange(3)
        file["obs"].attrs["_index"] = "_index"
        file["var/index"] = np.array([b"g0", b"g1"])
    obs = read_obs(tmp_path / "in.h5ad")
    assert obs["pert"].tolist()[:2] == ["ctrl", "A"]
    assert obs["pert"].isna().tolist() == [False, False, True]
    assert obs["n"].tolist() == [0, 1, 2]
    assert list(obs.index) == ["c0", "c1", "c2"]
    assert list(read_matrix(tmp_path / "in.h5ad", None)[1].index) == ["g0", "g1"]


@pytest.mark.parametrize("missing", [np.array([-1], "i1"), np.array([255], "u1"), np.array([-(2**31)], "i4")])
@pytest.mark.parametrize("referenced", [True, False])
def test_categories_of_anndata_0_7_without_references_and_with_missing_codes(tmp_path, missing, referenced):
    """A program that copies a file loses the references of codes to categories: they would be read as numbers."""
    with h5py.File(tmp_path / "in.h5ad", "w") as file:
        file["X"] = np.ones((3, 2), dtype=np.float32)
        for name, index, columns in (("obs", ["c0", "c1", "c2"], ["pert"]), ("var", ["g0", "g1"], [])):
            file[f"{name}/_index"] = np.array(index, dtype=object)
            file[name].attrs.update(
                {"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "_index"}
            )
            file[name].attrs["column-order"] = np.array(columns, dtype=h5py.string_dtype())
        file["obs/pert"] = np.array([0, 1, missing[0]], dtype=missing.dtype)
        file["obs/__categories/pert"] = np.array(["ctrl", "A"], dtype=object)
        if referenced:
            file["obs/pert"].attrs["categories"] = file["obs/__categories/pert"].ref
    obs = read_obs(tmp_path / "in.h5ad")
    assert obs.columns.tolist() == ["pert"]
    assert obs["pert"].tolist()[:2] == ["ctrl", "A"]
    assert obs["pert"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("codes", np.array([0, 1, 255], dtype="u1"), "has codes that stand for none of its categories"),
        ("categories", np.array(["A", "A"], dtype=object), "lists a category twice"),
    ],
)
def test_categories_that_anndata_refuses_are_named(tmp_path, part, values, message):
    adata = anndata.AnnData(np.ones((3, 2), dtype=np.float32))
    adata.obs["pert"] = pd.Categorical(["ctrl", "A", "A"])
    adata.write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        attributes = dict(file[f"obs/pert/{part}"].attrs)
        del file[f"obs/pert/{part}"]
        file[f"obs/pert/{part}"] = values
        file[f"obs/pert/{part}"].attrs.update(attributes)
    with pytest.raises(DatasetError, match=rf"in\.h5ad: obs/pert {message}"):
        read_obs(tmp_path / "in.h5ad")


def test_a_table_that_does_not_list_its_columns(tmp_path):
    adata = anndata.AnnData(np.ones((3, 2), dtype=np.float32))
    adata.obs["pert"] = pd.Categorical(["ctrl", "A", "A"])
    adata.write_h5ad(tmp_path / "in.h5ad")
    with h5py.File(tmp_path / "in.h5ad", "r+") as file:
        del file["obs"].attrs["column-order"]
    assert read_obs(tmp_path / "in.h5ad")["pert"].tolist() == ["ctrl", "A", "A"]


@pytest.mark.parametrize("stream", [False, True])
def test_raw_of_anndata_before_0_7(tmp_path, stream):
    raw = sp.csr_array(np.arange(12, dtype=np.float32).reshape(4, 3))
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["X"] = np.full((4, 2), 0.5, dtype=np.float32)
        for key in ("data", "indices", "indptr"):
            file[f"raw.X/{key}"] = getattr(raw, key)
        file["raw.X"].attrs["h5sparse_format"], file["raw.X"].attrs["h5sparse_shape"] = "csr", raw.shape
        records(file, "obs", ["c0", "c1", "c2", "c3"], {"pert": ["ctrl", "A", "B", "A"]}, "S")
        records(file, "var", ["g0", "g1"], {}, "S")
        records(file, "raw.var", ["g0", "g1", "g2"], {}, "S")
    _, var, found = read_matrix(tmp_path / "old.h5ad", "raw", stream=stream)
    assert [*map(str, var.index)] == ["g0", "g1", "g2"]
    np.testing.assert_array_equal(found.toarray(), raw.toarray())
    assert reads_raw(tmp_path / "old.h5ad", "raw")
    assert other_matrices(tmp_path / "old.h5ad", None) == ["counts are read with --from-raw"]
    with pytest.raises(DatasetError, match=r"has no layers/lost; layers: \['raw'\]"):
        read_matrix(tmp_path / "old.h5ad", "lost")


# ---- npz and zarr ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(MEMBERS) - {"version 3"}))
def test_damaged_members_of_an_npz(tmp_path, name):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", MEMBERS[name])
    with pytest.raises(DatasetError, match=r"x\.npz") as caught:
        read_npz(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["big-endian", "fortran", "half", "scalar", "empty", "truth", "text", "complex"]
)
def test_plain_arrays_of_an_npz_are_read_as_numpy_reads_them(tmp_path, kind):
    import random

    a = ARRAYS[kind](np.arange(6, dtype=np.float32).reshape(2, 3), random.Random(0))
    np.savez(tmp_path / "x.npz", a=a)
    found = read_npz(tmp_path / "x.npz")["a"]
    np.testing.assert_array_equal(found, a)
    assert found.dtype.isnative
    assert found.shape == np.shape(a)


@pytest.mark.parametrize("key", ["indices", "indptr"])
@pytest.mark.parametrize("value", [10**6, -1])
def test_counts_npz_with_an_index_or_pointer_out_of_range(synth, tmp_path, key, value):
    write_dataset(synth, tmp_path / "d", "npz")
    arrays = dict(np.load(tmp_path / "d/counts.npz"))
    arrays[key][3] = value
    np.savez(tmp_path / "d/counts.npz", **arrays)
    with pytest.raises(DatasetError, match=r"counts\.npz: the sparse matrix is damaged"):
        load_dataset(tmp_path / "d")


@pytest.mark.parametrize("value", [10**6, -1])
def test_zarr_with_an_index_out_of_range(synth, tmp_path, value):
    write_dataset(synth, tmp_path / "d", "zarr")
    shutil.copytree(tmp_path / "d", tmp_path / "good")
    zarr_index(tmp_path / "d/data.zarr", value)
    with pytest.raises(
        DatasetError, match=f"X in .*data.zarr: the sparse matrix is damaged .index {value} is outside"
    ):
        _ = load_dataset(tmp_path / "d").values
    assert load_dataset(tmp_path / "good").computed_sha256 == synth.computed_sha256


@pytest.mark.parametrize("name", ["g\0x", "g\ud800"])
@pytest.mark.parametrize("where", ["gene ids", "row ids", "context_id"])
def test_names_that_no_file_can_hold_are_not_written(tmp_path, name, where):
    from perturbfm_core.data.dataset import PerturbDataset
    from perturbfm_core.data.matrix import Values
    from perturbfm_core.data.metadata import DatasetMetadata
    from perturbfm_core.data.obs import make_obs

    columns = {"pert_id": ["A", "B"], "context_id": [name if where == "context_id" else "K", "K"]}
    obs = make_obs(columns, [name if where == "row ids" else "r0", "r1"])
    metadata = DatasetMetadata(name="d", level="condition", space="delta", control_policy="none")
    values = Values(delta=np.array([[1.0, -1.0], [0.5, 0.0]], dtype=np.float32))
    ds = PerturbDataset(obs, [name if where == "gene ids" else "g0", "g1"], values, metadata)
    with pytest.raises(DatasetError, match=f"{where} hold '.*', which is no text"):
        write_dataset(ds, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
