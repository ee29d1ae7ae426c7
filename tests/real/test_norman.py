"""Doubles of Norman et al. 2019 on published folds: the numbers that the field's simplest models reach."""

from __future__ import annotations

import json
from contextlib import nullcontext

import anndata
import numpy as np
import pytest

from perturbfm_core.pipeline.dataset import open_dataset
from tests.support.command import perturbfm
from tests.support.few_panels import brief

FILE = "pb_norman_k562_singles_doubles.h5ad"
ENTRIES = ("additive", "global_mean")


@pytest.fixture(scope="module")
def folds(real):
    return json.loads(real("norman_folds.json").read_text())["doubles"]


@pytest.fixture(scope="module")
def splits(real, place, folds):
    """Import the file, freeze the five folds, run two baselines on each, and rank them."""
    columns = ("--pert-col", "condition", "--context-col", "context", "--modality-col", "perturbation_type")
    perturbfm("data", "import", real(FILE), "--out", "N", "--name", "norman", *columns, "--space", "delta")
    hashes = []
    for i, fold in enumerate(folds):
        (place / f"fold{i}.json").write_text(
            json.dumps({"test": fold["test"], "unused": fold["held_out_unscored"]})
        )
        made = perturbfm(
            *("splits", "create", "--data", "N", "--spec", "explicit", "--conditions", f"fold{i}.json"),
            *("--cv-group", "doubles", "--folds", 5, "--fold", i),
            *("--validation", "inner_cv", "--calibration", "inner_cv"),
        ).values
        hashes.append(made["split_hash"])
        for entry in ENTRIES:
            # One of the ten runs with every panel and its report.
            with nullcontext() if (i, entry) == (0, "additive") else brief("delta"):
                perturbfm("train", entry, "--data", "N", "--split", made["split_hash"])
    perturbfm("leaderboard", "refresh")
    return hashes


def standing(metric, entry):
    """Return an entry's row of the one board."""
    rows = perturbfm(
        *("leaderboard", "sql", "--json"),
        f"select * from leaderboard where panel = 'delta' and metric = '{metric}' and entry = '{entry}'",
    ).json
    assert len(rows) == 1
    return rows[0]


@pytest.fixture(scope="module")
def by_hand(real, folds):
    """Return the same values computed from the file with nothing but numpy."""
    adata = anndata.read_h5ad(real(FILE))
    X = np.asarray(adata.X, dtype=np.float64)
    row = {name: i for i, name in enumerate(adata.obs["condition"].astype(str))}
    raw, centred, mean = [], [], []
    for fold in folds:
        held = {row[name] for name in fold["test"] + fold["held_out_unscored"]}
        center = X[[i for i in range(len(X)) if i not in held]].mean(axis=0)
        for name in fold["test"]:
            a, b = name.split("+")
            truth, added = X[row[name]], X[row[a]] + X[row[b]]
            raw.append(np.corrcoef(added, truth)[0, 1])
            centred.append(np.corrcoef(added - center, truth - center)[0, 1])
            mean.append(np.corrcoef(center, truth)[0, 1])
    return {
        "additive": np.mean(raw),
        "centred": np.mean(centred),
        "global_mean": np.mean(mean),
        "n": len(raw),
    }


def test_the_folds_are_those_of_the_file(splits, folds):
    ds = open_dataset("N")
    assert (ds.n_obs, ds.n_genes, ds.has_controls) == (234, 2000, False)
    for split_hash, fold in zip(splits, folds, strict=True):
        shown = perturbfm("splits", "show", split_hash, "--json").json
        table = {f: {key.split("|")[1] for key in keys} for f, keys in shown["folds"]["table"].items()}
        assert table["test"] == set(fold["test"])
        assert table.get("unused", set()) == set(fold["held_out_unscored"])
        assert len(table["train"]) == 234 - len(table["test"]) - len(fold["held_out_unscored"])
        assert set(table) <= {"train", "test", "unused"}
        assert shown["validation"] == shown["calibration"] == "inner_cv"
        assert shown["cv"]["k"] == 5
    groups = {perturbfm("splits", "show", h, "--json").json["cv"]["group"] for h in splits}
    assert len(groups) == 1


def test_additive_reaches_its_published_correlation(splits, by_hand):
    row = standing("pearson", "additive")
    assert (row["n_conditions"], row["n_undefined"], row["n_splits"], row["n_splits_expected"]) == (
        126,
        0,
        5,
        5,
    )
    assert row["value"] == pytest.approx(0.675, abs=0.002)
    assert by_hand["n"] == 126
    assert row["value"] == pytest.approx(by_hand["additive"], abs=1e-5)
    assert row["ci_low"] < row["value"] < row["ci_high"]


def test_additive_minus_the_train_mean(splits, by_hand):
    row = standing("pearson_centered", "additive")
    assert row["value"] == pytest.approx(0.611, abs=0.003)
    assert row["value"] == pytest.approx(by_hand["centred"], abs=1e-5)


def test_train_mean_reaches_its_published_correlation(splits, by_hand):
    row = standing("pearson", "global_mean")
    assert row["value"] == pytest.approx(0.406, abs=0.002)
    assert row["value"] == pytest.approx(by_hand["global_mean"], abs=1e-5)
    assert (row["rank"], standing("pearson", "additive")["rank"]) == (2, 1)
    assert row["best_baseline"] == "additive"
    # Centred, it predicts nothing, and that is said rather than scored as zero.
    centred = standing("pearson_centered", "global_mean")
    assert (centred["value"], centred["n_undefined"], centred["rank"]) == (None, 126, None)


def test_differences_without_cells_have_no_ceiling_and_say_so(splits):
    stats = perturbfm("splits", "show", splits[0], "--json").json["stats"]
    assert stats["ceiling"] == {"reason": "the data set has no single cells with controls"}
    assert stats["no_signal"] is None
    assert standing("pearson", "additive")["shared_control"] is True


def test_uncertainty_comes_from_conditions_that_were_held_out(splits):
    rows = perturbfm(
        *("leaderboard", "sql", "--json"),
        "select metric, value from leaderboard where panel = 'uncertainty' and entry = 'additive' "
        "and metric in ('coverage_0.5', 'coverage_0.9') order by metric",
    ).json
    half, most = (r["value"] for r in rows)
    assert half == pytest.approx(0.5, abs=0.15)
    assert most == pytest.approx(0.9, abs=0.08)
