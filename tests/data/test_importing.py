"""Import of h5ad files: every scale, every mapping, every way in which a file can be wrong."""

from __future__ import annotations

import bz2
import gzip
import json
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

from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.importing import ColumnMapping, import_h5ad
from perturbfm_core.data.metadata import GeneSelection
from perturbfm_core.data.presets.perturbench import perturbench_mapping
from perturbfm_core.data.presets.scperturb import scperturb_mapping
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import DatasetError

Write = Callable[..., Path]

COUNTS = np.array([[1, 3, 0], [0, 2, 2], [5, 0, 0], [4, 4, 8]], dtype=np.float32)
LOG1P = np.array([[0.5, 1.5, 0.0], [0.0, 2.0, 0.25], [1.0, 0.0, 0.0], [0.1, 0.2, 0.3]], dtype=np.float32)
SIGNED = LOG1P - np.float32(0.5)
MATRICES = {"counts": COUNTS, "log1p": LOG1P, "delta": SIGNED, "zscore": SIGNED * 4}
PERTS = ["ctrl", "A", "B+A", "ctrl"]
OBS = {"pert": PERTS, "cell": ["x", "x", "x", "x"]}
MAPPING: dict[str, Any] = {"pert_col": "pert", "context_col": "cell", "control_label": "ctrl"}


def read(path: Path, **changed: Any) -> PerturbDataset:
    return import_h5ad(path, ColumnMapping(**{**MAPPING, **changed}), name="imported")


# ---- scales ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(np.asarray, id="dense"),
        pytest.param(sp.csr_matrix, id="csr"),
        pytest.param(sp.csc_matrix, id="csc"),
    ],
)
@pytest.mark.parametrize("space", MATRICES)
def test_every_space(write_h5ad: Write, space: str, form: Callable[..., Any]) -> None:
    X = MATRICES[space]
    ds = read(write_h5ad(form(X), OBS), space=space)
    assert (ds.metadata.space, ds.name, ds.metadata.source) == (space, "imported", "file.h5ad")
    if space == "counts":
        stored = ds.values.counts
        assert stored.dtype == np.int32
        assert np.array_equal(stored.toarray(), X)
        expected = np.log1p(X / X.sum(axis=1, keepdims=True) * 1e4)
        np.testing.assert_allclose(ds.expression.toarray(), expected, rtol=1e-6)
    elif space == "log1p":
        stored = ds.expression
        assert sp.issparse(stored) == (form is not np.asarray)
        assert np.array_equal(stored.toarray() if sp.issparse(stored) else stored, X)
        assert ds.metadata.normalization is None
    else:
        # The mean of the control rows (0 and 3) is what a difference is taken to.
        np.testing.assert_allclose(ds.values.delta, X - X[[0, 3]].mean(axis=0), atol=1e-6)
        assert ds.expression is None
        assert (ds.metadata.level, ds.metadata.control_policy) == ("condition", "none")
    if space in ("counts", "log1p"):
        assert (ds.metadata.level, ds.metadata.control_policy) == ("cell", "mean")
        assert ds.is_control.tolist() == [True, False, False, True]
    assert ds.conditions.index.tolist() == ["x|A+B|||", "x|A|||"]


def test_storage_of_the_file_does_not_change_the_content(write_h5ad: Write) -> None:
    hashes = {
        read(write_h5ad(form(COUNTS), OBS, name=f"{i}.h5ad"), space="counts").computed_sha256
        for i, form in enumerate((np.asarray, sp.csr_matrix, sp.csc_matrix, lambda X: X.astype(np.int64)))
    }
    assert len(hashes) == 1


def test_target_sum(write_h5ad: Write) -> None:
    ds = read(write_h5ad(COUNTS, OBS), space="counts", target_sum=50)
    np.testing.assert_allclose(np.expm1(ds.expression.toarray()).sum(axis=1), 50, rtol=1e-5)


@pytest.mark.parametrize("space", ["delta", "zscore"])
def test_differences_need_no_control_label(write_h5ad: Write, space: str) -> None:
    path = write_h5ad(SIGNED, {"pert": ["A", "B", "C", "A"]})
    ds = read(path, space=space, control_label=None, context_col=None)
    assert not ds.is_control.any()
    assert ds.contexts == ["all"]
    assert condition_table(ds).n.tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("found", "declared", "message"),
    [
        pytest.param(
            "counts",
            "log1p",
            "X of file.h5ad looks like counts.*declare --space counts",
            id="counts-as-log1p",
        ),
        pytest.param(
            "log1p", "counts", "has fractions, counts have none; declare --space log1p", id="log1p-as-counts"
        ),
        pytest.param(
            "delta", "log1p", "has negative values .*declare --space delta or zscore", id="delta-as-log1p"
        ),
        pytest.param("delta", "counts", "has negative values, counts have none", id="delta-as-counts"),
        pytest.param("log1p", "delta", "has no negative value .*which delta data have", id="log1p-as-delta"),
        pytest.param(
            "counts", "zscore", "has no negative value .*which zscore data have", id="counts-as-zscore"
        ),
    ],
)
def test_wrong_declared_space(write_h5ad: Write, found: str, declared: str, message: str) -> None:
    path = write_h5ad(MATRICES[found], OBS)
    with pytest.raises(DatasetError, match=message):
        read(path, space=declared)


# ---- what is kept ----------------------------------------------------------------------------------------


def test_only_the_mapping_is_kept(tmp_path: Path) -> None:
    data = anndata.AnnData(
        X=COUNTS,
        obs=pd.DataFrame({**OBS, "leak": [0.1, 0.2, 0.3, 0.4]}, index=list("abcd")),
        var=pd.DataFrame({"means": [1.0, 2.0, 3.0]}, index=["g0", "g1", "g2"]),
        uns={"rank_genes": np.arange(3)},
        obsm={"X_pca": np.ones((4, 2))},
        layers={"z": SIGNED},
    )
    data.write_h5ad(tmp_path / "full.h5ad")
    ds = read(tmp_path / "full.h5ad", space="counts")
    assert ds.row_ids.tolist() == list("abcd")
    write_dataset(ds, tmp_path / "a", "zarr")
    stored = anndata.read_zarr(tmp_path / "a" / "data.zarr")
    assert "leak" not in stored.obs
    assert [list(getattr(stored, k)) for k in ("var", "uns", "obsm", "layers")] == [[], [], [], []]
    assert "leak" not in (tmp_path / "a" / "meta.json").read_text()


def test_metadata(write_h5ad: Write) -> None:
    stages: list[str] = []
    ds = import_h5ad(
        write_h5ad(LOG1P, OBS),
        ColumnMapping(**MAPPING),
        name="kang",
        source="https://example.org/kang",
        licence="CC0",
        control_policy="sampled",
        gene_selection=GeneSelection(method="hvg", rows="all"),
        progress=stages.append,
    )
    assert (ds.metadata.source, ds.metadata.licence) == ("https://example.org/kang", "CC0")
    assert ds.metadata.control_policy == "sampled"
    assert ds.metadata.gene_selection.rows == "all"
    assert ds.metadata.notes["columns"]["control_label"] == ["ctrl"]
    assert stages == ["reading", "checking"]


def test_layer(write_h5ad: Write) -> None:
    path = write_h5ad(SIGNED, OBS, layers={"counts": COUNTS})
    ds = read(path, space="counts", layer="counts")
    assert np.array_equal(ds.values.counts.toarray(), COUNTS)


def test_gene_column(write_h5ad: Write) -> None:
    var = pd.DataFrame({"symbol": ["TP53", "MYC", "GATA1"]}, index=["e0", "e1", "e2"])
    path = write_h5ad(LOG1P, OBS, var=var)
    assert read(path).genes.tolist() == ["e0", "e1", "e2"]
    assert read(path, gene_col="symbol").genes.tolist() == ["TP53", "MYC", "GATA1"]


def test_read_obs(write_h5ad: Write) -> None:
    assert read_obs(write_h5ad(LOG1P, OBS))["pert"].tolist() == PERTS


# ---- labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "separators", "pert"),
    [
        ("B+A", "+", "A+B"),
        ("B_A", "_", "A+B"),
        ("B,A", ",", "A+B"),
        ("B|A", "|", "A+B"),
        ("B_A,C", "_,", "A+B+C"),
        ("ctrl_A", "_", "A"),
        ("A_ctrl", "_", "A"),
        ("A_2", "+", "A_2"),
        ("A_2", "", "A_2"),
    ],
)
def test_separators(write_h5ad: Write, label: str, separators: str, pert: str) -> None:
    ds = read(write_h5ad(LOG1P, {**OBS, "pert": ["ctrl", label, "ctrl", "ctrl"]}), separators=separators)
    assert ds.conditions["pert_id"].tolist() == [pert]


def test_combination_of_controls_is_a_control(write_h5ad: Write) -> None:
    ds = read(write_h5ad(LOG1P, {**OBS, "pert": ["ctrl", "ctrl+ctrl", "A", "A+ctrl"]}))
    assert ds.is_control.tolist() == [True, True, False, False]
    assert ds.conditions["pert_id"].tolist() == ["A"]


def test_aliases(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, {**OBS, "pert": ["ctrl", "KIAA1804", "MAP3K21", "Z+KIAA1804"]})
    ds = read(path, aliases={"KIAA1804": "MAP3K21"})
    assert ds.conditions["pert_id"].tolist() == ["MAP3K21+Z", "MAP3K21"]


def test_numbers_as_labels(write_h5ad: Write) -> None:
    obs = {"pert": [0, 7157, 100130426, 100130427], "cell": [1.0, 1.0, 1.0, 1.0]}
    ds = read(write_h5ad(LOG1P, obs), control_label="0")
    assert ds.conditions.index.tolist() == ["1|100130426|||", "1|100130427|||", "1|7157|||"]


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, "category"])
def test_numeric_doses(write_h5ad: Write, kind: Any) -> None:
    doses = pd.Series([0, 10, 1_000_000, 10]) if kind is np.int64 else pd.Series([0, 10.0, 1_000_000, 0.1])
    obs = {**OBS, "pert": ["ctrl", "A", "A", "A"], "dose": doses.astype(kind).to_numpy()}
    ds = read(write_h5ad(LOG1P, obs), dose_col="dose", dose_unit="nM")
    last = "0.01 uM" if kind is np.int64 else "0.0001 uM"
    assert ds.obs["doses"].tolist() == ["", "0.01 uM", "1000 uM", last]


def test_numbers_that_differ_in_their_last_digit_only_by_rounding_are_one_dose(write_h5ad: Write) -> None:
    obs = {**OBS, "pert": ["ctrl", "A", "A", "A"], "dose": [0.0, 0.1 + 0.2, 0.3, 0.30001]}
    ds = read(write_h5ad(LOG1P, obs), dose_col="dose")
    assert ds.obs["doses"].tolist() == ["", "0.3", "0.3", "0.30001"]


def test_doses_of_combinations_follow_their_parts(write_h5ad: Write) -> None:
    obs = {**OBS, "pert": ["ctrl", "B+A", "A+B", "B+A"], "dose": ["1", "2+1", "1+2", "5"]}
    ds = read(write_h5ad(LOG1P, obs), dose_col="dose", dose_unit="uM")
    assert ds.obs["doses"].tolist() == ["", "1 uM+2 uM", "1 uM+2 uM", "5 uM+5 uM"]
    assert ds.conditions.index.tolist() == ["x|A+B||1 uM+2 uM|", "x|A+B||5 uM+5 uM|"]


def test_time_and_further_covariates(write_h5ad: Write) -> None:
    obs = {**OBS, "pert": ["ctrl", "A", "A", "A"], "hours": [6, 6, 24, 24], "sex": ["f", "f", "f", "m"]}
    ds = read(write_h5ad(LOG1P, obs), time_col="hours", covariate_cols=("sex",))
    texts = [json.loads(c) for c in ds.conditions["covariates"]]
    assert texts == [{"sex": "f", "time": "24"}, {"sex": "f", "time": "6"}, {"sex": "m", "time": "24"}]


def test_modality_of_all_rows(write_h5ad: Write) -> None:
    ds = read(write_h5ad(LOG1P, OBS), modality="KO")
    assert ds.obs["modality"].tolist() == ["", "KO", "KO", ""]


def test_modality_column_separates_conditions(write_h5ad: Write) -> None:
    obs = {**OBS, "pert": ["ctrl", "A", "A", "ctrl"], "kind": ["CRISPRa", "CRISPRa", "CRISPRi", "CRISPRi"]}
    ds = read(write_h5ad(LOG1P, obs), modality_col="kind")
    assert ds.conditions.index.tolist() == ["x|A|CRISPRa||", "x|A|CRISPRi||"]
    assert ds.obs["modality"].tolist() == ["", "CRISPRa", "CRISPRi", ""]


def test_batches_and_weights(write_h5ad: Write) -> None:
    obs = {**OBS, "donor": [101, 101, 107, 107], "w": [1, 2, 3, 4]}
    ds = read(write_h5ad(LOG1P, obs), batch_col="donor", weight_col="w")
    assert ds.obs["batch_id"].tolist() == ["101", "101", "107", "107"]
    assert ds.obs["weight"].tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("storage", ["npz", "zarr"])
def test_imported_labels_survive_storage(write_h5ad: Write, tmp_path: Path, storage: str) -> None:
    obs = {**OBS, "dose": ["", "2", "1+3", ""], "hours": [6, 6, 24, 24]}
    ds = read(write_h5ad(LOG1P, obs), dose_col="dose", dose_unit="uM", time_col="hours", modality="drug")
    write_dataset(ds, tmp_path / "a", storage)
    loaded = load_dataset(tmp_path / "a")
    loaded.verify_content()
    assert loaded.obs.astype(str).equals(ds.obs.astype(str))


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
            "a part 'control', the name of control rows",
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
    with pytest.raises(DatasetError, match=r"has 2 duplicate row ids, e.g. \['b', 'a'\]"):
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
        (gzip.compress(b"X\n\0\0\0\2" * 40), r"it is an R object, not HDF5 .*convert it in R"),
        (gzip.compress(b"cell,gene\n" * 40), "it is compressed, not HDF5 .*unpack it first"),
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


# ---- presets ---------------------------------------------------------------------------------------------

PERTURBENCH = {
    "condition": ["control", "B+A", "A", "control"],
    "cell_type": ["K562", "K562", "K562", "K562"],
    "perturbation_type": ["CRISPRa"] * 4,
    "treatment": ["none"] * 4,
    "ncounts": [1, 2, 3, 4],
}
SCPERTURB = {
    "perturbation": ["control", "B_A", "A", "control"],
    "cell_line": ["K562", "K562", "K562", "K562"],
    "perturbation_type": ["drug"] * 4,
    "dose_value": [0.0, 10.0, 10.0, 0.0],
    "dose_unit": ["nM"] * 4,
    "time": [24, 24, 24, 24],
    "gemgroup": [1, 1, 2, 2],
}


def test_perturbench(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, PERTURBENCH)
    ds = import_h5ad(path, perturbench_mapping(path), name="x")
    assert ds.metadata.space == "log1p"
    assert ds.conditions.index.tolist() == ["K562|A+B|CRISPRa||", "K562|A|CRISPRa||"]


def test_perturbench_with_treatments(write_h5ad: Write) -> None:
    path = write_h5ad(LOG1P, {**PERTURBENCH, "treatment": ["none", "none", "drug", "drug"]})
    ds = import_h5ad(path, perturbench_mapping(path), name="x")
    assert ds.conditions["covariates"].tolist() == ['{"treatment":"none"}', '{"treatment":"drug"}']


@pytest.mark.parametrize(
    ("column", "names"),
    [("condition", "condition, perturbation"), ("cell_type", "cell_type, cell_line, celltype")],
)
def test_perturbench_without(write_h5ad: Write, column: str, names: str) -> None:
    path = write_h5ad(LOG1P, {k: v for k, v in PERTURBENCH.items() if k != column})
    with pytest.raises(
        DatasetError,
        match=rf"column as PerturBench files have it \({names}\); columns with values: .*ncounts",
    ):
        perturbench_mapping(path)


def test_scperturb(write_h5ad: Write) -> None:
    path = write_h5ad(COUNTS, SCPERTURB)
    ds = import_h5ad(path, scperturb_mapping(path), name="x")
    assert ds.metadata.space == "counts"
    assert ds.conditions.index.tolist() == [
        'K562|A+B|drug|0.01 uM+0.01 uM|{"time":"24"}',
        'K562|A|drug|0.01 uM|{"time":"24"}',
    ]
    assert ds.obs["batch_id"].tolist() == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("changed", "mapping"),
    [
        pytest.param(
            {"dose_value": [np.nan, 1.0, 1.0, np.nan], "dose_unit": [None, "nM", "nM", None]},
            {"dose_col": "dose_value", "dose_unit_col": "dose_unit"},
            id="controls-without-dose",
        ),
        pytest.param({"dose_value": [0.0, np.nan, np.nan, 0.0]}, {"dose_col": None}, id="no-doses"),
        pytest.param({"batch": ["a"] * 4}, {"batch_col": "batch"}, id="batch-before-gemgroup"),
        pytest.param({"batch": [np.nan] * 4}, {"batch_col": "gemgroup"}, id="batch-without-values"),
        pytest.param(
            {"cell_line": [np.nan] * 4, "celltype": ["T"] * 4}, {"context_col": "celltype"}, id="next-context"
        ),
    ],
)
def test_scperturb_takes_columns_with_values(
    write_h5ad: Write, changed: dict[str, Any], mapping: dict[str, Any]
) -> None:
    found = scperturb_mapping(write_h5ad(COUNTS, {**SCPERTURB, **changed}))
    assert {k: getattr(found, k) for k in mapping} == mapping


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"dose_unit": ["nM", None, "nM", "nM"]}, r"'dose_unit' \(--dose-unit-col\)", id="some-units"
        ),
        pytest.param(
            {"dose_value": [0.0, np.nan, 1.0, 0.0]}, r"'dose_value' \(--dose-col\)", id="some-doses"
        ),
        pytest.param({"time": [1, 2, np.nan, 3]}, r"'time' \(covariate time\)", id="some-times"),
    ],
)
def test_scperturb_does_not_merge_treatments(
    write_h5ad: Write, changed: dict[str, Any], message: str
) -> None:
    path = write_h5ad(COUNTS, {**SCPERTURB, **changed})
    with pytest.raises(DatasetError, match=f"{message} has 1 missing values, first in row 'r[12]'"):
        import_h5ad(path, scperturb_mapping(path), name="x")


def test_controls_need_no_dose(write_h5ad: Write) -> None:
    path = write_h5ad(COUNTS, {**SCPERTURB, "dose_value": [np.nan, 10.0, 10.0, np.nan]})
    ds = import_h5ad(path, scperturb_mapping(path), name="x")
    assert ds.conditions["doses"].astype(str).tolist() == ["0.01 uM+0.01 uM", "0.01 uM"]


def test_scperturb_without_a_context(write_h5ad: Write) -> None:
    path = write_h5ad(COUNTS, {k: v for k, v in SCPERTURB.items() if k != "cell_line"})
    with pytest.raises(DatasetError, match="no context column as scPerturb files have it"):
        scperturb_mapping(path)


# ---- real files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kang(shared_dir: Path) -> PerturbDataset:
    mapping = ColumnMapping(
        pert_col="condition",
        context_col="context",
        batch_col="donor",
        control_label="control",
        space="counts",
    )
    return import_h5ad(shared_dir / "data" / "sc_kang_ifnb_5celltypes.h5ad", mapping, name="kang")


@pytest.fixture(scope="module")
def l1000(shared_dir: Path) -> PerturbDataset:
    mapping = ColumnMapping(
        pert_col="compound",
        context_col="context",
        dose_col="dose_um",
        dose_unit="uM",
        time_col="time",
        weight_col="n_replicates",
        modality="drug",
        space="zscore",
    )
    return import_h5ad(shared_dir / "data" / "pb_l1000_3drugs_65lines_doses.h5ad", mapping, name="l1000")


def test_kang(kang: PerturbDataset) -> None:
    assert (kang.n_obs, kang.n_genes) == (1556, 1267)
    assert int(kang.is_control.sum()) == 750
    assert kang.conditions["pert_id"].tolist() == ["IFNB"] * 5
    assert kang.values.counts.dtype == np.int32
    table = condition_table(kang)
    assert table.delta["input"].shape == (5, 1267)
    assert table.fallback_rows == 0
    assert table.n.sum() == 806


def test_kang_shares_controls_where_they_are_few(kang: PerturbDataset) -> None:
    shared = dict(zip(kang.controls.contexts, kang.controls.shared.tolist(), strict=True))
    n = kang.obs[kang.is_control].groupby("context_id", observed=False).size()
    assert shared == (n < 100).to_dict()
    assert shared["B cells"] is False
    assert shared["CD8 T cells"] is True
    for context, is_shared in shared.items():
        roles = set(kang.controls.roles[(kang.obs["context_id"] == context).to_numpy() & kang.is_control])
        assert roles == ({0} if is_shared else {1, 2})
    table = condition_table(kang)
    same = [np.array_equal(a, b) for a, b in zip(table.delta["input"], table.delta["reference"], strict=True)]
    assert same == table.shared_control.tolist() == [shared[c] for c in table.conditions["context_id"]]


def test_kang_response_is_that_of_interferon(kang: PerturbDataset) -> None:
    genes = kang.genes.tolist()
    for delta in condition_table(kang).delta["reference"]:
        assert {"ISG15", "IFI6"} <= {genes[j] for j in np.argsort(-delta)[:20]}


@pytest.mark.parametrize("storage", ["npz", "zarr"])
def test_kang_survives_storage(kang: PerturbDataset, tmp_path: Path, storage: str) -> None:
    write_dataset(kang, tmp_path / "kang", storage)
    assert load_dataset(tmp_path / "kang").computed_sha256 == kang.computed_sha256


def test_four_contexts(shared_dir: Path) -> None:
    path = shared_dir / "data" / "sc_norman_mcfaline_4contexts.h5ad"
    mapping = perturbench_mapping(path)
    ds = import_h5ad(path, mapping, name="norman-mcfaline")
    assert (ds.n_obs, ds.n_genes) == (5961, 500)
    assert ds.contexts == ["A172", "T98G", "U87MG", "k562"]
    assert not ds.controls.shared.any()
    assert [int(ds.controls.has_role(r).sum()) for r in ("input", "reference")] == [200, 200]
    perts = ds.conditions["pert_id"]
    assert perts.nunique() == 33
    assert perts[perts.str.contains("+", regex=False)].nunique() == 15
    modality = ds.conditions.groupby("context_id")["modality"].unique().map(list).to_dict()
    assert modality == {"A172": ["CRISPRi"], "T98G": ["CRISPRi"], "U87MG": ["CRISPRi"], "k562": ["CRISPRa"]}
    assert condition_table(ds).delta["input"].shape == (len(ds.conditions), 500)
    dosed = import_h5ad(path, mapping.model_copy(update={"dose_col": "dose"}), name="dosed")
    assert set(dosed.conditions["doses"]) == {"1", "1+1"}
    with pytest.raises(DatasetError, match="looks like counts"):
        import_h5ad(path, mapping.model_copy(update={"layer": "counts"}), name="wrong")


def test_norman_deltas(shared_dir: Path) -> None:
    mapping = ColumnMapping(
        pert_col="condition", context_col="context", modality_col="perturbation_type", space="delta"
    )
    ds = import_h5ad(shared_dir / "data" / "pb_norman_k562_singles_doubles.h5ad", mapping, name="norman")
    assert (ds.n_obs, ds.n_genes, len(ds.conditions)) == (234, 2000, 234)
    assert not ds.is_control.any()
    assert ds.conditions["pert_id"].str.contains("+", regex=False).sum() == 130
    table = condition_table(ds)
    assert table.s2_source == "unknown"
    assert table.shared_control.all()
    first = ds.condition_codes[17]
    assert np.array_equal(table.delta["input"][first], ds.values.delta[17])


def test_l1000_replicates(l1000: PerturbDataset) -> None:
    assert (l1000.n_obs, l1000.n_genes) == (272, 978)
    times = {json.loads(c)["time"] for c in l1000.conditions["covariates"]}
    assert times == {"6 h", "24 h", "6 h & 4 h", "24 h & 4 h"}
    assert set(l1000.conditions["doses"]) == {"0.1 uM", "0.5 uM", "1 uM", "3 uM", "10 uM"}
    columns = [l1000.obs[c].astype(str) for c in ("pert_id", "context_id", "doses", "covariates")]
    sizes = pd.concat(columns, axis=1).value_counts()
    table = condition_table(l1000)
    assert len(table) == len(sizes) < 272
    assert sorted(table.n) == sorted(sizes)
    assert table.s2_source == "replicates"
    assert (table.s2_pert > 0).mean() > 0.99


def test_l1000_replicates_are_weighted(l1000: PerturbDataset) -> None:
    table = condition_table(l1000)
    weight = l1000.obs["weight"].to_numpy()
    uneven = 0
    for i in np.flatnonzero(table.n > 1):
        rows = np.flatnonzero(l1000.conditions.index[l1000.condition_codes] == table.conditions.index[i])
        expected = np.average(l1000.values.delta[rows], axis=0, weights=weight[rows])
        np.testing.assert_allclose(table.delta["input"][i], expected, rtol=1e-4, atol=1e-5)
        uneven += len(set(weight[rows])) > 1
    assert uneven
