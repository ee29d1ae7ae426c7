"""Interferon in five cell types (Kang et al. 2018): every cell type unseen in turn, from raw counts."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import anndata
import numpy as np
import pytest

from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.atomic import read_json
from tests.support.command import perturbfm
from tests.support.few_panels import brief

FILE = "sc_kang_ifnb_5celltypes.h5ad"
SHARED = "CD8 T cells"


@pytest.fixture(scope="module")
def runs(real, place):
    """Import, freeze all five splits, run a baseline on each, and rank; return {held-out cell type: run}."""
    columns = ("--pert-col", "condition", "--context-col", "cell_type", "--batch-col", "donor")
    control = ("--control-label", "control", "--space", "counts")
    perturbfm("data", "import", real(FILE), "--out", "K", "--name", "kang", *columns, *control, warns=True)
    made = perturbfm("splits", "create", "--data", "K", "--spec", "leave_one_context_out", "--json").json[
        "splits"
    ]
    found = {}
    for split in made:
        (held,) = perturbfm("splits", "show", split["split_hash"], "--json").json["params"]["holdout"]
        # One of the five runs with every panel and its report.
        with nullcontext() if held == SHARED else brief("delta"):
            found[held] = perturbfm(
                "train", "global_mean", "--data", "K", "--split", split["split_hash"], "--json"
            ).json
    perturbfm("leaderboard", "refresh")
    return found


def test_counts_and_labels_are_those_of_the_file(real, runs):
    ds, source = open_dataset("K"), anndata.read_h5ad(real(FILE))
    assert (ds.values.counts != source.X.astype(np.int32)).nnz == 0
    assert ds.obs["context_id"].astype(str).tolist() == source.obs["cell_type"].astype(str).tolist()
    assert ds.is_control.tolist() == source.obs["is_control"].tolist()
    assert (ds.n_obs, ds.n_genes, int(ds.is_control.sum())) == (1556, 1267, 750)


def test_every_cell_type_is_held_out_once(runs):
    assert sorted(runs) == ["B cells", "CD14+ Monocytes", "CD4 T cells", SHARED, "FCGR3A+ Monocytes"]
    ds, folder = open_dataset("K"), SplitFolder("splits")
    for held, run in runs.items():
        split = folder.load(run["split_hash"])
        test, train = split.rows(ds, "test"), split.rows(ds, "train")
        assert set(ds.obs["context_id"].iloc[test]) == {held}
        assert held not in set(ds.obs["context_id"].iloc[train])
        assert len(test) + len(train) == 1556 - 750


def test_shared_controls_are_flagged_exactly_where_there_are_too_few(real, runs):
    """94 CD8 controls cannot be two halves of 50; the other four cell types have at least 112."""
    obs = anndata.read_h5ad(real(FILE)).obs
    n = obs[obs["is_control"]].groupby("cell_type", observed=True).size()
    assert [name for name, k in n.items() if k < 100] == [SHARED]
    assert {held for held, run in runs.items() if run["shared_control"]} == {SHARED}
    assert json.loads(perturbfm("data", "info", "K").values["shared_control_contexts"]) == [SHARED]
    flagged = perturbfm("leaderboard", "sql", "--json", "select run_id from runs where shared_control").json
    assert [r["run_id"] for r in flagged] == [runs[SHARED]["run_id"]]


def test_interferon_is_a_signal_everywhere(runs):
    for run in runs.values():
        stats = perturbfm("splits", "show", run["split_hash"], "--json").json["stats"]
        assert stats["no_signal"] is False
        assert stats["ceiling"]["pearson"]["half"] > 0.6
        assert abs(stats["floor"]["null"]["pearson"]) < 0.2


def test_the_response_carries_over_to_the_unseen_cell_type(runs):
    (row,) = perturbfm(
        *("leaderboard", "sql", "--json"),
        "select * from leaderboard where panel = 'delta' and metric = 'pearson'",
    ).json
    assert (row["entry"], row["n_splits"], row["n_conditions"], row["rank"]) == ("global_mean", 5, 5, 1)
    assert row["value"] == pytest.approx(0.814, abs=0.005)
    each = [
        read_json(Path(run["run_dir"]) / "metrics.json")["delta"]["global"]["pearson"]
        for run in runs.values()
    ]
    assert row["value"] == pytest.approx(np.mean(each), abs=1e-9)
    assert row["null_floor"] < 0.1 < row["value"]
    assert row["shared_control"] is True
