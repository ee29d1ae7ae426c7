"""Runs in other tools' formats, and what the doctor says."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core import __version__
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.pipeline.dataset import open_dataset
from tests.support.command import attempt, perturbfm

# ---- export ------------------------------------------------------------------------------------------------------


@pytest.fixture
def prediction(work):
    return read_prediction(work.path / "runs" / work.run / "predictions.npz")


def test_predictions_as_h5ad(work, prediction):
    answer = perturbfm("export", work.run, "--out", "p.h5ad").values
    assert (answer["rows"], answer["columns"]) == ("7", "50")
    adata = anndata.read_h5ad("p.h5ad")
    assert np.array_equal(adata.X, prediction.mean)
    assert np.array_equal(adata.layers["var"], prediction.var)
    assert list(adata.var_names) == list(prediction.genes)
    assert adata.uns["split_hash"] == work.split
    assert (adata.uns["kind"], adata.uns["data_content_sha256"]) == ("delta", prediction.data_content_sha256)
    assert adata.obs["n_rows"].tolist() == np.bincount(prediction.row).tolist()
    assert adata.obs["context"].tolist() == ["C0"] * 7
    # The row that names each prediction belongs to it.
    ds = open_dataset(work.path / "D")
    for i, row_id in enumerate(adata.obs["first_row_id"]):
        where = prediction.row_id.tolist().index(row_id)
        assert prediction.row[where] == i
        assert ds.row_ids[prediction.idx[where]] == row_id
        # So do its key and the parts of the key.
        key = ds.conditions.index[ds.condition_codes[prediction.idx[where]]]
        assert adata.obs_names[i] == adata.obs["condition"].iloc[i] == key
        assert adata.obs["perturbation"].iloc[i] == ds.conditions.loc[key, "pert_id"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_predictions_as_a_table(work, prediction, suffix):
    answer = perturbfm("export", work.run, "--out", f"p{suffix}").values
    table = pd.read_parquet(f"p{suffix}") if suffix == ".parquet" else pd.read_csv(f"p{suffix}")
    R, G = prediction.mean.shape
    assert (int(answer["rows"]), int(answer["columns"])) == table.shape == (R * G, 11)
    assert list(table.columns[:6]) == [
        "condition",
        "perturbation",
        "context",
        "modality",
        "doses",
        "covariates",
    ]
    assert table["condition"].drop_duplicates().tolist() == prediction.condition.tolist()
    mean = table.pivot_table(index="condition", columns="gene", values="mean")[list(prediction.genes)]
    var = table.pivot_table(index="condition", columns="gene", values="var")[list(prediction.genes)]
    assert np.allclose(mean.to_numpy(), prediction.mean, rtol=1e-6)
    assert np.allclose(var.to_numpy(), prediction.var, rtol=1e-6)


def test_predictions_of_an_earlier_version_are_named_by_the_scores(work, prediction):
    file = work.path / "runs" / work.run / "predictions.npz"
    arrays = dict(np.load(file))
    keys = arrays.pop("condition")
    np.savez(file, **arrays)
    perturbfm("export", work.run, "--out", "p.h5ad")
    assert anndata.read_h5ad("p.h5ad").obs_names.tolist() == keys.tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_scores_as_a_table(work, suffix):
    perturbfm("export", f"runs/{work.run}", "--out", f"s{suffix}", "--what", "scores")
    table = (
        pd.read_parquet(f"s{suffix}")
        if suffix == ".parquet"
        else pd.read_csv(f"s{suffix}", keep_default_na=False)
    )
    ours = pd.read_parquet(f"runs/{work.run}/scores.parquet")
    assert list(table.columns) == list(ours.columns)
    assert len(table) == len(ours)
    assert table["metric"].tolist() == ours["metric"].tolist()
    if suffix == ".parquet":
        pd.testing.assert_frame_equal(table, ours)


def test_a_run_is_found_by_id_prefix_and_path(work):
    second = perturbfm("train", "control_only", "--data", "D", "--split", work.split).values["run_id"]
    for i, name in enumerate((second, f"runs/{second}", second[: second.index("control") + 1])):
        perturbfm("export", name, "--out", f"{i}.csv")
    assert Path("0.csv").read_bytes() == Path("1.csv").read_bytes() == Path("2.csv").read_bytes()
    answer = attempt("export", work.run[:4], "--out", "x.csv")
    assert answer.code == 2
    assert f"2 runs in runs match '{work.run[:4]}'" in answer.err


def test_force_replaces_an_exported_file(work):
    Path("s.csv").write_text("mine")
    assert attempt("export", work.run, "--out", "s.csv", "--what", "scores").code == 2
    assert Path("s.csv").read_text() == "mine"
    perturbfm("export", work.run, "--out", "s.csv", "--what", "scores", "--force")
    assert Path("s.csv").read_text().startswith("run_id,")


# ---- doctor ------------------------------------------------------------------------------------------------------


def test_doctor_of_a_sound_folder(work):
    answer = perturbfm("doctor", "--json").json
    assert answer["problems"] == []
    assert answer["perturbfm"] == __version__
    assert answer["home"] == str(work.path)
    assert answer["split_dir"] == str(work.path / "splits")
    assert (answer["splits"], answer["complete_runs"]) == (1, 1)
    assert answer["datasets_at_hand"] == []
    assert answer["catalog"]["models"] >= 8
    assert answer["libraries"]["numpy"] == np.__version__
    (work.path / "data").mkdir()
    (work.path / "D").rename(work.path / "data/d")
    assert perturbfm("doctor", "--json").json["datasets_at_hand"] == ["d"]


def test_a_home_that_is_not_there_yet_can_be_made(tmp_path, monkeypatch):
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "none" / "of" / "these"))
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(tmp_path / "nor" / "splits"))
    assert not any("writable" in p for p in perturbfm("doctor", "--json").json["problems"])


def test_doctor_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(tmp_path / "frozen"))
    answer = perturbfm("doctor", "--json").json
    assert answer["home"] == str(tmp_path / "elsewhere")
    assert answer["split_dir"] == str(tmp_path / "frozen")
    assert (answer["splits"], answer["complete_runs"]) == (0, 0)


def broken_catalog(work, monkeypatch):
    path = work.path / ".perturbfm/catalog/models/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("name: mine\n")
    return "mine.yaml is not a valid ModelEntry"


def unknown_model(work, monkeypatch):
    path = work.path / ".perturbfm/catalog/models/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("name: mine\ndescription: x\nmodel: nope\n")
    return "entry 'mine' names the unknown model 'nope'"


def broken_index(work, monkeypatch):
    (work.path / "splits/index.json").write_text("[")
    return "index.json is not valid JSON"


def missing_package(work, monkeypatch):
    plain = metadata.version

    def version(name):
        if name == "dagster-webserver":
            raise metadata.PackageNotFoundError(name)
        return plain(name)

    monkeypatch.setattr(metadata, "version", version)
    return "dagster-webserver is not installed"


def unequal_packages(work, monkeypatch):
    plain = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "0.1" if name == "dagster-webserver" else plain(name)
    )
    return "dagster-webserver 0.1 does not fit dagster"


def folder_of_plugins_that_is_not_there(_work, monkeypatch):
    monkeypatch.setenv("PERTURBFM_PLUGINS", "/nonexistent/plugins")
    return "PERTURBFM_PLUGINS names /nonexistent/plugins, which is not there"


def slots_that_are_no_number(_work, monkeypatch):
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", "two")
    return "PERTURBFM_MAX_TRAIN is 'two'"


@pytest.mark.parametrize(
    "harm",
    [
        broken_catalog,
        unknown_model,
        broken_index,
        missing_package,
        unequal_packages,
        folder_of_plugins_that_is_not_there,
        slots_that_are_no_number,
    ],
    ids=lambda f: f.__name__,
)
def test_doctor_names_what_is_wrong(work, monkeypatch, harm):
    message = harm(work, monkeypatch)
    answer = attempt("doctor", "--json")
    assert answer.code == 2
    assert [message in problem for problem in json.loads(answer.out)["problems"]] == [True]


def test_doctor_in_a_folder_that_cannot_be_written(work, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    answer = attempt("doctor", "--json")
    assert answer.code == 2
    assert [p.split(" ")[0] for p in json.loads(answer.out)["problems"]] == ["home", "split"]
