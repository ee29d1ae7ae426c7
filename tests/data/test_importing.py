"""Import of h5ad files: every scale, every mapping, and what of a file is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.h5ad import read_obs
from perturbfm_core.data.importing import ColumnMapping, import_h5ad
from perturbfm_core.data.metadata import GeneSelection
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import DatasetError
from tests.support.small_files import COUNTS, LOG1P, MAPPING, MATRICES, OBS, PERTS, SIGNED, read

Write = Callable[..., Path]


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
        tell=stages.append,
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
