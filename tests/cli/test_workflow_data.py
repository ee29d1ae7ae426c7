"""Data sets, by the commands that a user types."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pytest
import yaml

from tests.support.command import attempt, perturbfm
from tests.support.workflow import CONTEXT, IMPORT, SYNTH


def test_import_registers_a_data_set_for_the_grid(screen_h5ad, tmp_path):
    made = perturbfm(
        "data", "import", screen_h5ad, "--out", "S", *IMPORT, "--name", "screen", "--register"
    ).values
    assert made["n_obs"] == "240"
    assert json.loads(made["contexts"]) == ["K562", "RPE1"]
    assert made["n_combos"] == "2"
    assert "reload" in made["note"]
    entry = yaml.safe_load((tmp_path / ".perturbfm/catalog/datasets/screen.yaml").read_text())
    assert entry["source"] == "artifact"
    assert entry["content_sha256"] == made["content_sha256"]
    split = perturbfm(
        "splits", "create", "--data", "S", "--spec", "combo_ood", "--holdout-combo", "B+A", "--no-bounds"
    )
    # The registered data set is found by its name and content: no --data.
    run = perturbfm("run", "--split", split.values["split_hash"], "--entry", "additive").values
    assert run["entry"] == "additive"
    assert perturbfm("splits", "verify", "--all").out.splitlines()[0].endswith("ok (file and data)")


def test_imported_counts_are_those_of_the_file(screen_h5ad, tmp_path):
    perturbfm("data", "import", screen_h5ad, "--out", "S", *IMPORT)
    from perturbfm_core.pipeline.dataset import open_dataset

    ds = open_dataset(tmp_path / "S")
    source = anndata.read_h5ad(screen_h5ad)
    assert np.array_equal(ds.values.counts.toarray(), source.X)
    assert list(ds.row_ids) == list(source.obs_names)
    label = source.obs["perturbation"].astype(str).map({"ctrl": "control", "B_A": "A+B"}.get, na_action=None)
    assert list(ds.obs["pert_id"]) == list(label.fillna(source.obs["perturbation"].astype(str)))
    assert set(ds.obs.loc[ds.is_control, "modality"]) == {""}
    assert set(ds.obs.loc[~ds.is_control, "modality"]) == {"CRISPRa"}


def test_a_file_of_a_data_set_is_imported_without_naming_its_columns(screen_h5ad, tmp_path):
    made = perturbfm("data", "import", screen_h5ad, "--out", "S", *IMPORT).values
    from perturbfm_core.pipeline.dataset import open_dataset

    open_dataset(tmp_path / "S").to_anndata().write_h5ad(tmp_path / "own.h5ad")
    again = perturbfm("data", "import", "own.h5ad", "--out", "T").values
    assert again["content_sha256"] == made["content_sha256"]
    assert (again["name"], again["source"]) == ("t", made["source"])
    mixed = attempt("data", "import", "own.h5ad", "--out", "U", "--space", "counts", "--covariate-col", "x")
    assert mixed.code == 2
    assert "own.h5ad says itself which columns are which" in mixed.err
    assert "leave out --covariate-col, --space, or give --pert-col" in mixed.err
    others = attempt("data", "import", screen_h5ad, "--out", "U")
    assert others.code == 2
    assert "--pert-col is needed, the obs column of the perturbation; columns of" in others.err
    assert "perturbation" in others.err.partition("columns of")[2]
    assert not (tmp_path / "U").exists()


def test_storages_hold_the_same_data_and_give_the_same_scores(work, monkeypatch):
    perturbfm(*SYNTH[:3], "Z", *SYNTH[4:], "--name", "d", "--storage", "zarr")
    assert (work.path / "Z/data.zarr").is_dir()
    assert not (work.path / "Z/data.npz").exists()
    info = [perturbfm("data", "info", place, "--verify").values for place in ("D", "Z")]
    assert info[0].pop("path") != info[1].pop("path")
    assert info[0] == info[1]
    assert perturbfm(*CONTEXT[:3], "Z", *CONTEXT[4:]).values["split_hash"] == work.split
    run = perturbfm("train", "linear", "--data", "D", "--split", work.split).values
    scored = perturbfm(
        *("eval", "predictions", "--data", "Z", "--split", work.split),
        *("--preds", f"{run['run_dir']}/predictions.npz", "--out", "OUT"),
    ).values
    assert scored["alignment"] == "by_name"
    assert Path("OUT/metrics.json").read_bytes() == Path(run["run_dir"], "metrics.json").read_bytes()
    monkeypatch.setenv("PERTURBFM_HOME", "other")
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", "splits")
    sparse = perturbfm("train", "linear", "--data", "Z", "--split", work.split).values
    assert float(sparse["delta.pearson_centered"]) == pytest.approx(
        float(run["delta.pearson_centered"]), abs=1e-6
    )


def test_force_replaces_a_data_set(work):
    old = perturbfm("data", "info", "D").values["content_sha256"]
    made = perturbfm(*SYNTH, "--seed", 9, "--force").values
    assert made["content_sha256"] != old
    assert perturbfm("data", "info", "D", "--verify").values["content_sha256"] == made["content_sha256"]
    assert sorted(p.name for p in work.path.iterdir()) == ["D", "runs", "splits"]


def test_catalog_configuration_is_simulated_by_name(tmp_path, monkeypatch):
    folder = tmp_path / ".perturbfm/catalog/datasets"
    folder.mkdir(parents=True)
    entry = {
        "name": "tiny",
        "description": "very small",
        "source": "synth",
        "synth": {"n_obs": 100, "n_genes": 20, "n_contexts": 2, "n_perts": 4},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(entry))
    made = perturbfm("data", "make-synth", "--config", "tiny", "--out", "T").values
    assert (made["name"], made["n_obs"], made["n_genes"]) == ("tiny", "100", "20")


def test_data_sets_of_runs_are_in_the_leaderboard_wherever_they_lay(work):
    """D lies in the current folder, neither under data/ nor in the catalog."""
    (row,) = perturbfm("leaderboard", "sql", "select * from datasets", "--json").json
    meta = json.loads((work.path / "D/meta.json").read_text())["metadata"]
    assert (row["dataset"], row["data_sha256"]) == (meta["name"], meta["content_sha256"])
    assert (row["n_obs"], row["n_genes"], row["level"], row["space"]) == (200, 50, "cell", "counts")
    # It stays there when the artifact is gone.
    shutil.rmtree("D")
    perturbfm("leaderboard", "refresh")
    assert perturbfm("leaderboard", "sql", "select * from datasets", "--json").json == [row]
