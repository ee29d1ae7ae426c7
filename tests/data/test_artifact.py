"""The data set artifact in both storages, and files that other programs made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data import artifact
from perturbfm_core.data.artifact import load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.npz import read_npz
from perturbfm_core.data.simulate import SimulationTruth
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import DatasetError, StoreError
from tests.support.foreign_artifact import CONTROL, DELTA, GENES, OBS

Make = Callable[..., PerturbDataset]
STORAGES = ["npz", "zarr"]


def matrix(X: Any) -> np.ndarray:
    return X.toarray() if sp.issparse(X) else X


# ---- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_round_trip_of_counts(synth: PerturbDataset, tmp_path: Path, storage: str) -> None:
    metadata = write_dataset(synth, tmp_path / "a", storage)
    loaded = load_dataset(str(tmp_path / "a"))
    assert loaded.metadata == metadata
    assert metadata == synth.metadata.model_copy(update={"content_sha256": synth.computed_sha256})
    assert loaded.obs.astype(str).equals(synth.obs.astype(str))
    assert loaded.genes.tolist() == synth.genes.tolist()
    assert (loaded.values.counts != synth.values.counts).nnz == 0
    assert np.array_equal(loaded.controls.roles, synth.controls.roles)
    a, b = condition_table(synth), condition_table(loaded)
    assert np.array_equal(a.delta["reference"], b.delta["reference"])


@pytest.mark.parametrize("storage", STORAGES)
def test_round_trip_of_every_column(make_dataset: Make, tmp_path: Path, storage: str) -> None:
    ds = make_dataset(
        np.ones((3, 2), dtype=np.float32),
        ["control", "A+B", "Ä|%"],
        row_ids=["x", "y", "z|ü"],
        context_id=["c 1"] * 3,
        modality=["", "KO", "drug"],
        doses=["", "1+2 uM", "3"],
        covariates=["", '{"sex":"f","time":"6 h"}', ""],
        weight=[1.0, 2.5, 1 / 3],
    )
    write_dataset(ds, tmp_path / "a", storage)
    loaded = load_dataset(tmp_path / "a")
    assert loaded.obs.astype(str).equals(ds.obs.astype(str))
    assert loaded.obs["weight"].tolist() == [1.0, 2.5, 1 / 3]
    assert loaded.conditions.equals(ds.conditions)
    loaded.verify_content()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array], ids=["dense", "csr"])
def test_round_trip_of_expression(
    make_dataset: Make, tmp_path: Path, storage: str, form: Callable[..., Any]
) -> None:
    X = np.array([[0.0, 1.5], [2.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    write_dataset(make_dataset(form(X), ["control", "A", "B"]), tmp_path / "a", storage)
    loaded = load_dataset(tmp_path / "a")
    assert np.array_equal(matrix(loaded.expression), X)
    assert sp.issparse(loaded.expression) == (storage == "zarr" and form is sp.csr_array)


FORMS = {
    "expression-control": ("log1p", {"expression": CONTROL + DELTA, "x_control": CONTROL}),
    "expression-delta": ("log1p", {"expression": CONTROL + DELTA, "delta": DELTA}),
    "delta-control": ("log1p", {"delta": DELTA, "x_control": CONTROL}),
    "all": ("log1p", {"expression": CONTROL + DELTA, "delta": DELTA, "x_control": CONTROL}),
    "delta": ("delta", {"delta": DELTA}),
    "delta-control-declared-delta": ("delta", {"delta": DELTA, "x_control": CONTROL}),
    "all-declared-delta": ("delta", {"expression": CONTROL + DELTA, "delta": DELTA, "x_control": CONTROL}),
    "zscore": ("zscore", {"delta": DELTA}),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("space", "given"), FORMS.values(), ids=FORMS)
def test_round_trip_of_given_controls(
    make_dataset: Make, tmp_path: Path, storage: str, space: str, given: dict[str, np.ndarray]
) -> None:
    ds = make_dataset(
        DELTA, ["A", "B", "C"], values=Values(**given), metadata={"space": space, "control_policy": "file"}
    )
    write_dataset(ds, tmp_path / "a", storage)
    loaded = load_dataset(tmp_path / "a")
    loaded.verify_content()
    found = {k: X for k, X in vars(loaded.values).items() if X is not None}
    assert set(found) == set(given)
    assert all(np.array_equal(matrix(found[k]), given[k]) for k in given)


def test_npz_holds_the_interchange_form(synth: PerturbDataset, tmp_path: Path) -> None:
    write_dataset(synth, tmp_path / "a", "npz")
    arrays = read_npz(tmp_path / "a" / "data.npz")
    assert set(arrays) == {"X_pert", "X_control", "delta", "obs_idx"}
    assert {k: v.dtype.str for k, v in arrays.items() if k != "obs_idx"} == dict.fromkeys(
        ("X_pert", "X_control", "delta"), "<f4"
    )
    assert arrays["obs_idx"].dtype == np.int64
    assert np.array_equal(arrays["obs_idx"], np.arange(synth.n_obs))
    rows = np.arange(synth.n_obs)
    assert np.array_equal(arrays["X_pert"], synth.expression.toarray())
    assert np.array_equal(arrays["X_control"], synth.x_control(rows))
    assert np.array_equal(arrays["delta"], arrays["X_pert"] - arrays["X_control"])
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    assert set(meta) == {"schema_version", "storage", "obs", "var", "metadata"}
    pair = meta["obs"]["pert_id"].index(next(p for p in meta["obs"]["pert_id"] if "+" in p))
    assert meta["obs"]["pert_genes"][pair] == meta["obs"]["pert_id"][pair].split("+")
    assert meta["obs"]["pert_genes"][meta["obs"]["is_control"].index(True)] == []
    assert meta["metadata"]["content_sha256"] == synth.computed_sha256


def test_zarr_stores_no_dense_matrix(synth: PerturbDataset, tmp_path: Path) -> None:
    import zarr

    write_dataset(synth, tmp_path / "a", "zarr")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["data.zarr", "meta.json"]
    group = zarr.open_group(str(tmp_path / "a" / "data.zarr"), mode="r")
    assert group["X"].attrs["encoding-type"] == "csr_matrix"
    assert group["X/data"].dtype == np.int32
    assert list(group["layers"]) == []


def test_zarr_is_an_anndata_file(synth: PerturbDataset, tmp_path: Path) -> None:
    import anndata

    write_dataset(synth, tmp_path / "a", "zarr")
    data = anndata.read_zarr(tmp_path / "a" / "data.zarr")
    assert data.var_names.tolist() == synth.genes.tolist()
    assert data.obs["pert_id"].tolist() == synth.obs["pert_id"].tolist()
    assert (synth.values.counts != data.X).nnz == 0


def test_zarr_is_read_on_first_use(synth: PerturbDataset, tmp_path: Path) -> None:
    write_dataset(synth, tmp_path / "a", "zarr")
    ds = load_dataset(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "data.zarr" / "X")
    assert ds.n_obs == synth.n_obs
    assert ds.conditions.equals(synth.conditions)
    assert ds.content_sha256 == synth.computed_sha256
    with pytest.raises(DatasetError, match=r"data\.zarr is damaged .*import the data set again"):
        _ = ds.values


def test_truth_lies_beside_the_data(
    synth: PerturbDataset, synth_truth: SimulationTruth, tmp_path: Path
) -> None:
    write_dataset(synth, tmp_path / "a", "zarr", truth=synth_truth.arrays())
    arrays = read_npz(tmp_path / "a" / schema.TRUTH_FILE)
    assert np.array_equal(arrays["log_fold_change"], synth_truth.log_fold_change)
    assert arrays["conditions"].tolist() == synth_truth.conditions


@pytest.mark.parametrize("storage", STORAGES)
def test_existing_artifact_is_kept_unless_overwritten(
    synth: PerturbDataset, tmp_path: Path, storage: str
) -> None:
    path = tmp_path / "data" / "a"
    write_dataset(synth, path, storage)
    before = (path / "meta.json").read_bytes()
    with pytest.raises(StoreError, match="already exists; choose another place, or give --force"):
        write_dataset(synth, path, storage)
    assert (path / "meta.json").read_bytes() == before
    write_dataset(synth, path, "zarr" if storage == "npz" else "npz", overwrite=True)
    load_dataset(path).verify_content()
    assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_failed_writing_leaves_nothing(
    synth: PerturbDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "_DENSE_LIMIT", 1000)
    with pytest.raises(DatasetError, match=r"too many for the dense data\.npz; give --storage zarr"):
        write_dataset(synth, tmp_path / "data" / "a", "npz")
    assert list((tmp_path / "data").iterdir()) == []


# ---- files of other programs -----------------------------------------------------------------------------


def test_minimal_foreign_file(foreign: Callable[..., Path]) -> None:
    ds = load_dataset(foreign({"X_pert": CONTROL + DELTA, "X_control": CONTROL, "delta": DELTA}))
    assert ds.name == "foreign"
    assert (ds.metadata.space, ds.metadata.control_policy) == ("log1p", "file")
    assert ds.obs["pert_id"].tolist() == ["control", "A+B", "A"]
    assert ds.row_ids.tolist() == ["row0", "row1", "row2"]
    assert ds.genes.tolist() == GENES
    assert ds.conditions.index.tolist() == ["K562|A+B|||", "K562|A|||"]
    rows = np.array([2, 0])
    assert np.array_equal(ds.delta(rows), DELTA[rows])
    assert not ds.has_controls


def test_own_control_is_taken_as_it_is(foreign: Callable[..., Path]) -> None:
    # The file's control is no mean of its control rows, and its delta not even the difference.
    ds = load_dataset(foreign({"X_pert": CONTROL + DELTA, "X_control": CONTROL * 7, "delta": DELTA}))
    rows = np.arange(3)
    for role in ("input", "reference"):
        assert np.array_equal(ds.x_control(rows, role), CONTROL * 7)
        assert np.array_equal(ds.delta(rows, role), DELTA)
    assert np.array_equal(condition_table(ds).control["input"], (CONTROL * 7)[[1, 2]])


@pytest.mark.parametrize(
    ("arrays", "space", "policy"),
    [
        pytest.param({"X_pert": CONTROL + DELTA}, "log1p", "mean", id="expression"),
        pytest.param(
            {"X_pert": CONTROL + DELTA, "X_control": CONTROL}, "log1p", "file", id="expression-control"
        ),
        pytest.param({"X_pert": CONTROL + DELTA, "delta": DELTA}, "log1p", "file", id="expression-delta"),
        pytest.param({"delta": DELTA}, "delta", "file", id="delta"),
        pytest.param({"delta": DELTA, "X_control": CONTROL}, "delta", "file", id="delta-control"),
    ],
)
def test_any_matrix_may_be_absent(
    foreign: Callable[..., Path], arrays: dict[str, np.ndarray], space: str, policy: str
) -> None:
    ds = load_dataset(foreign(arrays))
    assert (ds.metadata.space, ds.metadata.control_policy) == (space, policy)
    expected = DELTA if policy == "file" else (CONTROL + DELTA) - (CONTROL + DELTA)[0]
    assert np.array_equal(ds.delta(np.arange(3)), expected)
    assert len(condition_table(ds)) == 2


def test_float64_and_fortran_order_are_read(foreign: Callable[..., Path]) -> None:
    ds = load_dataset(foreign({"delta": np.asfortranarray(DELTA.astype(np.float64))}))
    assert ds.values.delta.dtype == np.float32
    assert np.array_equal(ds.values.delta, DELTA)


def test_optional_columns_of_a_foreign_file(foreign: Callable[..., Path]) -> None:
    more = {
        "row_id": ["x", "y", "z"],
        "pert_genes": [[], ["B", "A"], ["A"]],
        "pert_doses": [[], ["2", "1"], ["3"]],
        "modality": ["", "drug", "drug"],
        "covariates": [{}, {"time": "6 h"}, {}],
        "weight": [1, 2, 3],
    }
    ds = load_dataset(foreign({"delta": DELTA}, obs={**OBS, **more}))
    assert ds.obs["doses"].tolist() == ["", "1+2", "3"]
    assert ds.conditions.index.tolist() == ['K562|A+B|drug|1+2|{"time":"6 h"}', "K562|A|drug|3|"]
    assert ds.obs["weight"].tolist() == [1.0, 2.0, 3.0]
    assert ds.row_ids.tolist() == ["x", "y", "z"]


def test_obs_idx_says_which_row_is_which(foreign: Callable[..., Path]) -> None:
    obs = {**OBS, "context_id": ["K562", "K562", "other"]}
    ds = load_dataset(foreign({"delta": DELTA[[1, 0]], "obs_idx": np.array([1, 0])}, obs=obs))
    assert ds.row_ids.tolist() == ["row1", "row0"]
    assert ds.conditions.index.tolist() == ["K562|A+B|||"]
    assert ds.contexts == ["K562"]
    assert np.array_equal(ds.delta(np.array([0])), DELTA[[1]])
