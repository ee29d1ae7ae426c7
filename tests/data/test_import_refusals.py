"""Import of h5ad files: every way in which a file can be wrong is refused in one line."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem
from pydantic import ValidationError

from perturbfm_core.data.importing import ColumnMapping
from perturbfm_core.errors import DatasetError
from tests.support.small_files import COUNTS, LOG1P, MATRICES, OBS, read

Write = Callable[..., Path]


# ---- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"pert_col": "gene"},
            r"file.h5ad has no obs column 'gene' \(--pert-col\); columns: pert, cell",
            id="pert",
        ),
        pytest.param({"context_col": "line"}, r"no obs column 'line' \(--context-col\)", id="context"),
        pytest.param({"batch_col": "b"}, r"no obs column 'b' \(--batch-col\)", id="batch"),
        pytest.param({"dose_col": "d"}, r"no obs column 'd' \(--dose-col\)", id="dose"),
        pytest.param({"time_col": "t"}, r"no obs column 't' \(covariate time\)", id="time"),
        pytest.param({"modality_col": "m"}, r"no obs column 'm' \(--modality-col\)", id="modality"),
        pytest.param({"weight_col": "w"}, r"no obs column 'w' \(--weight-col\)", id="weight"),
        pytest.param({"covariate_cols": ("s",)}, r"no obs column 's' \(covariate s\)", id="covariate"),
        pytest.param({"gene_col": "symbol"}, "var has no column 'symbol'; columns: none", id="gene"),
        pytest.param({"layer": "counts"}, "has no layers/counts; layers: none", id="layer"),
        pytest.param(
            {"control_label": "DMSO"},
            "control label 'DMSO' does not occur in 'pert'; found e.g. 'ctrl'",
            id="label",
        ),
        pytest.param(
            {"control_label": None},
            "--control-label is needed for log1p data; 'pert' holds e.g.",
            id="no-label",
        ),
        pytest.param({"separators": "_"}, r"'B\+A' would be one name although its parts are", id="separator"),
        pytest.param({"weight_col": "cell"}, "weights that are not positive", id="weights-are-text"),
    ],
)
def test_wrong_mapping(write_h5ad: Write, changed: dict[str, Any], message: str) -> None:
    path = write_h5ad(LOG1P, OBS)
    with pytest.raises(DatasetError, match=message) as caught:
        read(path, **changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        pytest.param(
            {"pert": ["ctrl", None, "A", "B"]},
            r"'pert' \(--pert-col\) has 1 missing values, first in row 'r1'",
            id="pert",
        ),
        pytest.param(
            {"cell": ["x", "x", None, None]},
            r"'cell' \(--context-col\) has 2 missing values, first in row 'r2'",
            id="context",
        ),
        pytest.param(
            {"pert": ["ctrl", "A", "A+", "B"]}, r"'A\+' has an empty or repeated part", id="empty-part"
        ),
        pytest.param(
            {"pert": ["ctrl", "A", "A+A", "B"]}, r"'A\+A' has an empty or repeated part", id="repeated-part"
        ),
        pytest.param(
            {"pert": ["ctrl", "control", "A", "B"]},
            "1 rows 'control' beside the control label 'ctrl'; add --control-label 'control' if they are controls",
            id="second-control",
        ),
        pytest.param(
            {"pert": ["ctrl"] * 4}, "has control rows only; nothing is perturbed", id="nothing-perturbed"
        ),
        pytest.param(
            {"cell": ["x", "x", "y", "x"]},
            "no control rows in context 'y' of data set 'imported'; add",
            id="bare",
        ),
    ],
)
def test_wrong_labels(write_h5ad: Write, obs: dict[str, Any], message: str) -> None:
    path = write_h5ad(LOG1P, {**OBS, **obs})
    with pytest.raises(DatasetError, match=message):
        read(path)


def test_dose_that_fits_no_part(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, {**OBS, "dose": ["", "1+2", "1", ""]})
    with pytest.raises(DatasetError, match="'A' has 1 parts but 2 doses"):
        read(path, dose_col="dose")


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "csr"])
@pytest.mark.parametrize("space", MATRICES)
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_values_that_are_no_numbers(
    write_h5ad: Write, form: Callable[..., Any], space: str, value: float
) -> None:
    X = MATRICES[space].copy()
    X[1, 2] = value
    path = write_h5ad(form(X), OBS)
    with pytest.raises(DatasetError, match=f"non-finite values, first {value} at row 'r1', gene 'g2'"):
        read(path, space=space)


@pytest.mark.parametrize("space", ["counts", "log1p"])
def test_negative_values(write_h5ad: Write, space: str) -> None:
    X = MATRICES[space].copy()
    X[1, 2] = -1
    path = write_h5ad(X, OBS)
    with pytest.raises(DatasetError, match="negative values"):
        read(path, space=space)


def test_duplicate_genes(write_h5ad: Write) -> None:
    var = pd.DataFrame({"symbol": ["A", "B", "A"]}, index=["e0", "e1", "e2"])
    path = write_h5ad(LOG1P, OBS, var=var)
    with pytest.raises(DatasetError, match=r"has 1 duplicate gene ids, e.g. \['A'\]; make them unique"):
        read(path, gene_col="symbol")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_duplicate_rows(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, OBS, row_ids=["a", "b", "b", "a"])
    with pytest.raises(
        DatasetError, match=r"file.h5ad has 2 duplicate row ids, e.g. \['a', 'b'\].*obs_names_make_unique\(\)"
    ):
        read(path)


def test_unknown_mapping_field() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        ColumnMapping(pert_col="p", colour="red")


# ---- files that are broken -------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.h5ad does not exist; give the path of an h5ad file"):
        read(tmp_path / "gone.h5ad")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_file(write_h5ad: Write, share: float) -> None:
    path = write_h5ad(LOG1P, OBS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DatasetError, match="cannot be read as h5ad, it is truncated or not HDF5") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "table.h5ad"
    path.write_text("gene,cell\n" * 100)
    with pytest.raises(DatasetError, match="text such as CSV, not HDF5"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"X\n\0\0\0\2" * 40, mtime=0), r"it is an R object, not HDF5 .*convert it in R"),
        (gzip.compress(b"cell,gene\n" * 40, mtime=0), "it is compressed, not HDF5 .*unpack it first"),
        (
            b"PK\3\4\x14\0\6\0\10\0\0\0!\0[Content_Types].xml \0",
            "it is a spreadsheet, not HDF5 .*make an AnnData",
        ),
        (b"PK\3\4\x14\0\6\0\10\0\0\0!\0a.h5ad", "it is compressed, not HDF5"),
        (b"PK\3\4\x14\0\6\0\10\0\0\0!\0X.npy", "it is an object that Python saved.*make an AnnData"),
        (pickle.dumps(OBS), "it is an object that Python saved, not HDF5"),
        (b"\x93NUMPY\1\0", "it is an object that Python saved, not HDF5"),
        (bz2.compress(b"x"), "it is compressed, not HDF5"),
        (lzma.compress(b"x"), "it is compressed, not HDF5"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "it is compressed, not HDF5"),
        (b"a.h5ad".ljust(257, b"\0") + b"ustar\0", "it is an archive, not HDF5 .*unpack it first"),
        (b"ARROW1\0\0", "it is Arrow or Feather, not HDF5 .*make an AnnData"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
            "pointer of Git LFS.*`git lfs pull`",
        ),
        (b"\n<!DOCTYPE html><html>403", "it is a web page, not HDF5 .*fetch the file itself"),
        (b"%%MatrixMarket matrix coordinate integer general\n", "Matrix Market file.*read it with scanpy"),
        (b"", "it is truncated or not HDF5"),
    ],
)
def test_files_of_other_kinds_are_named_with_what_to_do(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.h5ad").write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read(tmp_path / "x.h5ad")
    assert "\n" not in str(caught.value)


def test_links_to_files_that_are_not_there_are_named(write_h5ad: Write, tmp_path: Path) -> None:
    path = write_h5ad(LOG1P, OBS)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink("gone.h5ad", "/X")
    with pytest.raises(DatasetError, match="HDF5 with links to other files, of which one is not there"):
        read(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["matrix/barcodes"], r"\(obs, var not found\); it is of 10x Genomics: read it with scanpy"),
        (["matrix", "row_attrs/Gene", "col_attrs/CellID"], "; it is Loom: read it with anndata.io.read_loom"),
        (["assays/RNA", "meta.data/x"], "; it is h5Seurat: convert it"),
    ],
)
def test_hdf5_of_other_kinds_is_named(tmp_path: Path, names: list[str], message: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in names:
            file[name] = np.ones(3)
    with pytest.raises(DatasetError, match=message):
        read(tmp_path / "x.h5")


def test_a_filter_that_is_not_there_is_named(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, OBS)
    with h5py.File(path, "r+") as file:
        del file["X"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk(LOG1P.shape)
        # Zstandard, by its number among the registered filters.
        made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple(LOG1P.shape)
        X = h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, space, made)
        X.write_direct_chunk((0, 0), b"compressed", 0)
    with pytest.raises(
        DatasetError, match=r"compressed by a method that HDF5 lacks here .*compression='gzip'"
    ):
        read(path)


def test_a_transposed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.h5ad"
    anndata.AnnData(LOG1P, pd.DataFrame(OBS, index=[f"r{i}" for i in range(len(LOG1P))])).T.write_h5ad(path)
    with pytest.raises(
        DatasetError, match=r"has 'pert' in var, not in obs: rows must be cells; transpose it"
    ):
        read(path)


def test_a_folder_of_matrix_market_files(tmp_path: Path) -> None:
    (tmp_path / "matrix.mtx.gz").touch()
    with pytest.raises(DatasetError, match=r"is a folder of Matrix Market files.*read it with scanpy"):
        read(tmp_path)


def test_a_table_in_parquet(tmp_path: Path) -> None:
    pd.DataFrame({"pert": ["A"]}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(DatasetError, match=r"it is Parquet, not HDF5 .*`perturbfm data import-tahoe`"):
        read(tmp_path / "table.parquet")


def test_mudata(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5mu", "w") as file:
        file.attrs["encoding-type"] = "MuData"
        write_elem(file, "obs", pd.DataFrame(OBS))
        write_elem(file, "var", pd.DataFrame(index=list("abc")))
        write_elem(file, "mod", {"rna": anndata.AnnData(COUNTS), "adt": anndata.AnnData(COUNTS)})
    with pytest.raises(
        DatasetError, match=r"is MuData, with the modalities adt, rna; write one of them as h5ad"
    ):
        read(tmp_path / "m.h5mu")


def test_hdf5_without_obs(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["X"] = LOG1P
    with pytest.raises(DatasetError, match=r"is HDF5 but no h5ad file \(obs, var not found\)"):
        read(tmp_path / "other.h5ad")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        pytest.param(lambda f: f.__delitem__("X"), "has no X; layers: none", id="no-matrix"),
        pytest.param(lambda f: f.__delitem__("obs/pert"), "cannot be read as h5ad", id="lost-column"),
    ],
)
def test_damaged_inside(write_h5ad: Write, edit: Callable[[Any], None], message: str) -> None:
    path = write_h5ad(LOG1P, OBS)
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(DatasetError, match=message):
        read(path)


def test_matrix_of_another_shape(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, OBS)
    with h5py.File(path, "r+") as file:
        attributes = dict(file["X"].attrs)
        del file["X"]
        file["X"] = LOG1P[:, :2]
        file["X"].attrs.update(attributes)
    with pytest.raises(DatasetError, match=r"matrix is \(4, 2\), obs and var say \(4, 3\)"):
        read(path)


def test_missing_layer_names_the_others(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, OBS, layers={"counts": COUNTS, "spliced": COUNTS})
    with pytest.raises(DatasetError, match=r"has no layers/raw; layers: \['counts', 'spliced'\]"):
        read(path, layer="raw")
