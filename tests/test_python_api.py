"""PerturbFM from Python: `import perturbfm_core as pfm`."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import perturbfm_core as pfm
from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import ConfigError, DatasetError, PredictionError, SplitError
from tests.support.factories import grid_rows, screen
from tests.support.paths import REPO


@pytest.fixture(scope="module")
def ds():
    return simulate(
        SimulationConfig(name="s", n_obs=400, n_genes=30, n_perts=5, n_combos=2, doses=(1.0, 10.0))
    )[0]


@pytest.fixture
def split(ds):
    return pfm.freeze(ds, "context_ood", holdout=["C1"], bounds=False)


def test_the_script_of_the_documentation_runs_and_shows_a_leaderboard(tmp_path):
    done = subprocess.run(
        [sys.executable, REPO / "docs/python_api.py"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("PERTURBFM")} | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "PerturbDataset 'screen': 900 rows x 60 genes" in done.stdout
    assert {p.name.split("_", 2)[2].rpartition("_")[0] for p in (tmp_path / "runs").glob("*_*_*")} == {
        "ridge",
        "stiff_ridge",
        "global_mean",
    }
    assert len(list((tmp_path / "runs").glob("*/report.html"))) == 3
    assert "[3 rows x 6 columns]" in done.stdout


def test_importing_the_package_imports_no_library():
    code = "import sys, perturbfm_core; print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'pandas', 'torch', 'pydantic'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'nope'; it offers: PerturbDataset, Run, freeze"):
        _ = pfm.nope


def test_a_data_set_survives_the_way_through_anndata(ds):
    back = pfm.from_anndata(ds.to_anndata())
    assert back.content_sha256 == ds.content_sha256
    assert back.name == ds.name
    assert back.conditions.equals(ds.conditions)


@pytest.mark.parametrize("space", ["log1p", "delta"])
def test_expression_and_deltas_survive_too(space):
    rng = np.random.default_rng(0)
    base = screen(grid_rows(["A", "B"], ["x", "y"]))
    if space == "delta":
        adata = base.to_anndata()
        adata = adata[adata.obs["pert_id"] != "control"].copy()
        adata.X = rng.normal(size=adata.shape).astype(np.float32)
        base = pfm.from_anndata(adata, pert_col="pert_id", context_col="context_id", space="delta")
    assert pfm.from_anndata(base.to_anndata()).content_sha256 == base.content_sha256


def test_covariates_survive_as_columns():
    adata = screen(grid_rows(["A", "B"], ["x", "y"])).to_anndata()
    adata.obs["age"] = ["1" if i % 2 else "2" for i in range(adata.n_obs)]
    made = pfm.from_anndata(
        adata, pert_col="pert_id", context_col="context_id", control_label="control", covariate_cols=["age"]
    )
    shown = made.to_anndata()
    assert shown.obs["age"].tolist() == adata.obs["age"].tolist()
    assert pfm.from_anndata(shown).content_sha256 == made.content_sha256


def test_an_object_that_does_not_fit_is_refused_in_one_line(ds):
    adata = ds.to_anndata()
    del adata.uns["perturbfm"]
    for options, error, message in (
        (
            {"pert_col": "nope", "control_label": "control"},
            DatasetError,
            "AnnData object has no obs column 'nope'",
        ),
        (
            {"pert_col": "pert_id", "control_label": "ctrl"},
            DatasetError,
            "control label 'ctrl' does not occur",
        ),
        ({"pert_col": "pert_id", "control_label": "control"}, DatasetError, "declare --space counts"),
        ({"pert_col": "pert_id", "colour": "red"}, ConfigError, "colour: Extra inputs are not permitted"),
        ({"pert_col": "pert_id", "layer": "raw"}, DatasetError, "no layers/raw; layers: none"),
        ({}, ConfigError, "pert_col: Field required"),
    ):
        with pytest.raises(error, match=message) as caught:
            pfm.from_anndata(adata, **options)
        assert "\n" not in str(caught.value)


def test_a_file_is_read_by_its_columns_or_a_preset(ds, tmp_path):
    path = tmp_path / "My Screen.h5ad"
    adata = ds.to_anndata()
    adata.write_h5ad(path)
    read = pfm.read_h5ad(
        path, pert_col="pert_id", context_col="context_id", control_label="control", space="counts"
    )
    assert (read.name, read.n_obs) == ("my-screen", ds.n_obs)
    adata.obs["perturbation"], adata.obs["cell_line"] = adata.obs["pert_id"], adata.obs["context_id"]
    adata.write_h5ad(path)
    assert pfm.read_h5ad(path, preset="scperturb", separators="+").contexts == ds.contexts


def test_a_data_set_shows_itself_and_cannot_be_changed(ds):
    text = repr(ds)
    assert text.startswith("PerturbDataset 's': 400 rows x 30 genes (cell level, counts)")
    assert "contexts: 3 (C0, C1, C2)" in text
    before = ds.computed_sha256
    attempts = (
        lambda: ds.obs.__setitem__("pert_id", "control"),
        lambda: ds.obs.loc.__setitem__((ds.obs.index[0], "is_control"), True),
        lambda: ds.obs.iloc.__setitem__((0, 0), "control"),
        lambda: ds.obs["is_control"].to_numpy().__setitem__(0, False),
        lambda: ds.obs.drop(columns="pert_id", inplace=True),  # noqa: PD002
        lambda: ds.conditions.__setitem__("pert_id", "x"),
        lambda: setattr(ds, "obs", None),
        lambda: setattr(ds, "metadata", None),
        lambda: ds.genes.__setitem__(0, "x"),
        lambda: ds.values.counts.data.__setitem__(0, 9),
        lambda: ds.condition_codes.__setitem__(0, 1),
    )
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError, AttributeError)):
            attempt()
    changed = ds.obs.copy()
    changed["pert_id"] = "control"
    assert len(set(ds.obs["pert_id"])) > 1
    assert pfm.PerturbDataset(ds.obs, ds.genes, ds.values, ds.metadata).computed_sha256 == before


def test_folds_are_a_list_and_one_split_is_one(ds, split):
    folds = pfm.freeze(ds, "perturbation_ood", folds=3, bounds=False)
    assert [f.definition.cv.fold for f in folds] == [0, 1, 2]
    assert pfm.freeze(ds, "context_ood", holdout=["C1"], bounds=False).hash == split.hash
    with pytest.raises(SplitError, match="has no parameter 'hold'; it takes: few_shot_frac, holdout"):
        pfm.freeze(ds, "context_ood", hold=["C1"])


def test_lists_of_conditions_are_given_as_they_are_on_the_command_line(ds, tmp_path):
    context = ds.contexts[0]
    test = [str(k) for k in ds.conditions.index if k.startswith(f"{context}|")][:2]
    listed = pfm.freeze(ds, "explicit", conditions={"test": test}, bounds=False)
    assert listed.definition.folds.table["test"] == tuple(sorted(test))
    path = tmp_path / "list.csv"
    path.write_text("condition,fold\n" + "".join(f"{key},test\n" for key in test))
    for given in (path, str(path)):
        assert pfm.freeze(ds, "explicit", conditions=given, bounds=False).hash == listed.hash
    for options, message in (
        ({"kind": "explicit", "folds": {"test": test}}, r"give lists .* as conditions=\{'test'"),
        (
            {"kind": "iid", "policies": {"seed": 3}},
            "policies holds 'seed', which freeze takes as an argument",
        ),
        ({"kind": "iid", "policies": ["fold"]}, "policies is a list; give a dictionary"),
    ):
        with pytest.raises(ConfigError, match=message):
            pfm.freeze(ds, **options, bounds=False)


def test_conditions_that_a_list_leaves_open_are_warned_of(ds):
    keys = [str(k) for k in ds.conditions.index]
    listed = {"test": keys[:2], "train": keys[2:10]}
    left = len(keys) - 10
    with pytest.warns(
        UserWarning, match=f"{left} conditions are in no fold of the list, .*unlisted='unused'"
    ):
        split = pfm.freeze(ds, "explicit", conditions=listed, bounds=False)
    # Stated, it is the same split without a word.
    assert pfm.freeze(ds, "explicit", conditions=listed, unlisted="train", bounds=False).hash == split.hash
    used = pfm.freeze(ds, "explicit", conditions=listed, unlisted="unused", bounds=False).definition.folds
    assert len(used.table["train"]) == 8


def test_a_run_has_record_scores_metrics_and_prediction(ds, split):
    run = pfm.run(ds, split, "additive")
    assert run.record.split_hash == split.hash
    assert run.record.data_hash == ds.content_sha256
    assert run.metrics["delta"]["global"]["pearson"] == pytest.approx(
        run.scores.query("panel == 'delta' and metric == 'pearson' and scope == 'global'")["value"].item()
    )
    assert run.prediction.mean.shape[1] == ds.n_genes
    assert run.report.is_file()
    assert "delta.pearson" in repr(run)
    board = pfm.leaderboard("delta.pearson")
    assert board["entry"].tolist() == ["additive"]
    assert pfm.leaderboard(refresh=False).shape[0] > 50


def test_a_changed_parameter_is_another_entry_and_an_unknown_one_is_refused(ds, split):
    assert pfm.run(ds, split, "ridge", alphas=[10.0]).record.entry.startswith("ridge-")
    several = pfm.run(
        ds, split.hash, ModelEntry(name="g", description="x", model="global_mean", seeds=(1, 2))
    )
    assert [r.record.seed for r in several] == [1, 2]
    with pytest.raises(ConfigError, match="model 'ridge' has no parameter 'alpha'; it takes: alphas"):
        pfm.run(ds, split, "ridge", alpha=1.0)


def test_a_data_frame_scores_as_the_file_of_the_same_run(ds, split):
    run = pfm.run(ds, split, "additive")
    made = run.prediction
    keys = [
        ds.conditions.index[ds.condition_codes[made.idx[np.flatnonzero(made.rows == i)[0]]]]
        for i in range(len(made.mean))
    ]
    frame = pd.DataFrame(made.mean, index=keys, columns=made.genes)
    var = pd.DataFrame(made.var, index=keys, columns=made.genes)
    scores = pfm.score(ds, split, frame.iloc[::-1, ::-1], variance=var)
    for metric in ("pearson", "rmse"):
        assert scores.metrics["delta"]["global"][metric] == pytest.approx(
            run.metrics["delta"]["global"][metric]
        )
    assert scores.metrics["uncertainty"]["global"]["nll"] == pytest.approx(
        run.metrics["uncertainty"]["global"]["nll"], rel=1e-5
    )
    assert scores.warnings == ()
    assert repr(scores).startswith(f"Scores of {len(frame)} test conditions\n    delta.pearson_centered: ")
    flat = pfm.score(ds, split, frame * 0.0, panels=["delta"])
    assert flat.warnings
    assert f"    warning: {flat.warnings[0]}" in repr(flat).splitlines()
    bare = pfm.score(ds, split, frame, panels=["delta", "uncertainty"])
    assert bare.metrics["uncertainty"]["global"]["nll"] is None
    with pytest.raises(PredictionError, match=r"lacks 1 of .* test conditions"):
        pfm.score(ds, split, frame.iloc[1:])
