"""Three drugs at five doses and two times in 65 cell lines (LINCS L1000): z-scores with replicates."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.table import condition_table
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.atomic import read_json
from tests.support.command import attempt, perturbfm
from tests.support.few_panels import brief

FILE = "pb_l1000_3drugs_65lines_doses.h5ad"
CONDITION = ["context", "condition", "dose_um", "time"]
SPLITS = {
    "conditions at random": ["iid"],
    "cell lines in folds": ["context_ood", "--folds", 5],
    "one cell line": ["context_ood", "--holdout-context", "MCF7"],
    "one drug": ["perturbation_ood", "--holdout-perturbation", "venlafaxine"],
    "drug in cell line": ["covariate_transfer", "--covariate-name", "context"],
    "drug at dose": ["covariate_transfer", "--covariate-name", "dose", "--folds", 2],
    "drug at time": ["covariate_transfer", "--covariate-name", "time"],
}


@pytest.fixture(scope="module")
def source(real):
    return anndata.read_h5ad(real(FILE))


@pytest.fixture(scope="module")
def imported(real, place):
    columns = ("--pert-col", "condition", "--context-col", "context", "--time-col", "time")
    doses = ("--dose-col", "dose_um", "--dose-unit", "uM", "--modality", "drug")
    return perturbfm(
        *("data", "import", real(FILE), "--out", "L", "--name", "l1000", "--space", "zscore"),
        *(*columns, *doses, "--weight-col", "n_replicates"),
    ).values


def test_dose_time_and_weights_are_kept(imported, source):
    ds = open_dataset("L")
    assert (imported["level"], imported["space"], imported["control_policy"]) == (
        "condition",
        "zscore",
        "none",
    )
    assert (ds.n_obs, ds.n_genes) == (272, 978)
    assert set(ds.obs["doses"].astype(str)) == {f"{d} uM" for d in ("0.1", "0.5", "1", "3", "10")}
    assert set(ds.obs["covariates"].astype(str)) == {f'{{"time":"{t}"}}' for t in source.obs["time"].unique()}
    assert ds.obs["weight"].tolist() == source.obs["n_replicates"].tolist()
    assert np.array_equal(ds.values.delta, np.asarray(source.X, dtype=np.float32))
    assert ds.genes.tolist() == source.var_names.tolist()


def test_replicates_are_one_condition_by_their_weights(imported, source):
    ds = open_dataset("L")
    groups = source.obs.groupby(CONDITION, observed=True).indices
    assert len(ds.conditions) == len(groups) == 220
    table = condition_table(ds, np.arange(ds.n_obs))
    position = {key: i for i, key in enumerate(table.conditions.index)}
    X, weight = np.asarray(source.X, dtype=np.float64), source.obs["n_replicates"].to_numpy(dtype=float)
    repeated = 0
    for (context, drug, dose, time), rows in groups.items():
        key = f'{context}|{drug}|drug|{dose:g} uM|{{"time":"{time}"}}'
        expected = np.average(X[rows], axis=0, weights=weight[rows])
        assert np.allclose(table.delta["reference"][position[key]], expected, atol=1e-5)
        repeated += len(rows) > 1
    assert repeated > 20


@pytest.mark.parametrize("name", list(SPLITS))
def test_replicates_stay_in_one_fold_and_a_baseline_runs(imported, source, name):
    made = perturbfm("splits", "create", "--data", "L", "--spec", *SPLITS[name], "--json").json
    ds, folder = open_dataset("L"), SplitFolder("splits")
    for split in made.get("splits", [made]):
        codes = folder.load(split["split_hash"]).codes(ds)
        assert (codes >= 0).all()
        folds = pd.Series(codes).groupby([source.obs[c].to_numpy() for c in CONDITION]).nunique()
        assert len(folds) == 220
        assert folds.max() == 1
    # Differences have no cells: whether there is signal cannot be known, and is not claimed.
    assert split["no_signal"] is None
    # One kind with every panel and its report.
    with nullcontext() if name == "conditions at random" else brief("delta"):
        run = perturbfm(
            "train", "per_perturbation_mean", "--data", "L", "--split", split["split_hash"], "--json"
        ).json
    assert 0 < read_json(Path(run["run_dir"]) / "metrics.json")["delta"]["global"]["pearson"] < 1
    assert run["shared_control"] is True


def test_drugs_are_no_combinations(imported):
    answer = attempt("splits", "create", "--data", "L", "--spec", "combo_ood", "--folds", 2)
    assert answer.code == 2
    assert "needs combinations of perturbations, the data set has none" in answer.err


def test_runs_of_all_kinds_share_a_leaderboard(imported):
    split = perturbfm("splits", "create", "--data", "L", "--spec", *SPLITS["one cell line"]).values[
        "split_hash"
    ]
    with brief("delta"):
        for entry in ("global_mean", "ridge"):
            perturbfm("train", entry, "--data", "L", "--split", split)
    perturbfm("leaderboard", "refresh")
    key = f"l1000.context_ood.{split[:12]}"
    rows = perturbfm("leaderboard", "show", "--board", key, "--json").json
    assert {r["entry"] for r in rows} >= {"global_mean", "ridge"}
    assert {r["n_conditions"] for r in rows} == {12}
