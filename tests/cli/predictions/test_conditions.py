"""Predictions from elsewhere: conditions missing or in excess, degenerate values, templates and exports."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from tests.support.command import attempt, perturbfm
from tests.support.prediction_files import GENES, of, perts


def test_missing_conditions_are_refused_or_counted(s):
    s.table(s.mean_delta).iloc[1:].to_csv("f.csv", index=False)
    kept = s.code > 0
    np.savez("f.npz", mean=s.delta[kept], idx=s.rows[kept], genes=np.asarray(GENES))
    zero = s.mean_delta.copy()
    zero[0] = 0
    s.table(zero).to_csv("zero.csv", index=False)
    full = s.score("zero.csv")[1]
    for file in ("f.csv", "f.npz"):
        line = s.refused(file)
        assert "lacks 30 of 120 test rows, in 1 of 4 conditions, ['A549|G1|||']" in line
        assert "--missing control" in line
        out, metrics, record = s.score(file, "--missing", "control")
        assert out["missing_as_control"] == record["notes"]["missing_as_control"] == 1
        assert "1 of 4 test conditions are not predicted and scored as their control" in out["warnings"][0]
        assert of(metrics, "delta.rmse") == pytest.approx(of(full, "delta.rmse"), abs=1e-6)
    assert (
        out["cells"]
        == "the prediction's own for 3 of 4 conditions, else drawn from control cells (control_shift)"
    )
    np.savez("part.npz", mean=s.delta[3:], idx=s.rows[3:], genes=np.asarray(GENES))
    assert "that it has other rows of" in s.refused("part.npz", "--missing", "control")
    s.table(s.mean_delta, condition=["x"] * 4).iloc[:1].to_csv("none.csv", index=False)
    line = s.refused("none.csv", "--missing", "control")
    assert "has none of the 4 test conditions" in line
    assert "unknown to the data set, e.g. ['x']" in line


def test_further_conditions_are_ignored_and_counted(s, expected):
    more = [*s.keys, s.ds.conditions.index[-1], "A549|G99|||"]
    s.table(np.vstack([s.mean_delta, np.full((2, 40), 9.0)]), condition=more).to_csv("f.csv", index=False)
    out, metrics, record = s.score("f.csv")
    assert of(metrics, "delta.pearson") == pytest.approx(expected, abs=1e-6)
    assert (out["conditions_not_asked_for"], out["unknown_conditions"]) == (1, 1)
    assert record["notes"]["unknown"] == ["A549|G99|||"]
    assert "unknown to the data set and left out, e.g. ['A549|G99|||']" in out["warnings"][0]


# ---- predictions that predict nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options", "warning"),
    [
        (lambda s: np.zeros((4, 40)), (), "4 of 4 predictions are a copied control"),
        (lambda s: s.mean - s.mean_delta, ("--kind", "expression"), "4 of 4 predictions are a copied control"),
        (
            lambda s: np.stack([s.ds.expression[np.flatnonzero(s.ds.is_control & (s.ds.obs["context_id"] == c))].toarray().mean(axis=0) for c in perts(s)[1]]),
            ("--kind", "expression"),
            "4 of 4 predictions are a copied control",
        ),
        (lambda s: np.vstack([np.full((2, 40), 0.3), s.mean_delta[2:]]), (), "2 of 4 predictions are constant over genes"),
        (lambda s: np.tile(s.mean_delta[:1], (4, 1)), (), "all 4 conditions have the same prediction"),
        (lambda s: s.mean_delta[[0, 0, 2, 3]], (), "all conditions of a context have the same prediction, in 1 of 2 contexts (A549)"),
    ],
    ids=["zero", "input-control", "all-controls", "constant", "one-for-all", "one-per-context"],
)  # fmt: skip
def test_degenerate_predictions_are_flagged(s, values, options, warning):
    s.table(values(s)).to_csv("f.csv", index=False)
    out, _, record = s.score("f.csv", *options)
    assert warning in out["warnings"][0]
    assert record["notes"]["warnings"] == out["warnings"]
    assert warning in Path("OUT/report.html").read_text()


# ---- templates and exports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet", "h5ad", "npz"])
def test_template_is_filled_and_scored(s, expected, suffix):
    file = f"t.{suffix}"
    line = ("predictions", "template", "--data", "D", "--split", s.split, "--out", file)
    answer = perturbfm(*line).values
    assert (answer["conditions"], answer["genes"], answer["kind"]) == ("4", "40", "delta")
    assert "NaN or infinite in 4 conditions" in s.refused(file)
    assert "already exists" in attempt(*line).err
    fill(file, s.keys, s.mean_delta)
    out, metrics, _ = s.score(file)
    assert of(metrics, "delta.pearson") == pytest.approx(expected, abs=1e-6)
    assert out["kind_from"] == "file"
    perturbfm(*line, "--kind", "expression", "--force")
    fill(file, s.keys, s.mean)
    out, metrics, _ = s.score(file)
    assert out["kind"] == "expression"
    assert of(metrics, "delta.pearson") == pytest.approx(expected, abs=1e-4)


def fill(file, keys, values):
    """Fill in a template by its keys."""
    by_key = dict(zip(keys, values, strict=True))
    if file.endswith("npz"):
        arrays = dict(np.load(file))
        arrays["mean"] = np.stack([by_key[k] for k in arrays["condition"]])
        np.savez(file, **arrays)
    elif file.endswith("h5ad"):
        a = anndata.read_h5ad(file)
        a.X = np.stack([by_key[k] for k in a.obs["condition"]]).astype("f4")
        a.write_h5ad(file)
    else:
        table = pd.read_csv(file) if file.endswith("csv") else pd.read_parquet(file)
        table[GENES] = np.stack([by_key[k] for k in table["condition"]])
        _ = table.to_csv(file, index=False) if file.endswith("csv") else table.to_parquet(file)


def test_template_of_an_unknown_format(s):
    answer = attempt("predictions", "template", "--data", "D", "--split", s.split, "--out", "t.xlsx")
    assert answer.code == 2
    assert "unknown format '.xlsx'; the name must end in .csv, .parquet, .h5ad, .npz" in answer.err
    assert not Path("t.xlsx").exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet", "h5ad"])
def test_an_export_names_conditions_and_scores_as_its_run(s, suffix):
    run = perturbfm("train", "additive", "--data", "D", "--split", s.split).values["run_id"]
    perturbfm("export", run, "--out", f"e.{suffix}")
    if suffix == "h5ad":
        labels = anndata.read_h5ad("e.h5ad").obs
    else:
        labels = pd.read_csv("e.csv") if suffix == "csv" else pd.read_parquet("e.parquet")
        labels = labels.drop_duplicates("condition")
    assert labels["condition"].tolist() == s.keys
    assert labels["perturbation"].tolist() == ["G1", "G2", "G1", "G2"]
    assert labels["context"].tolist() == ["A549", "A549", "K562", "K562"]
    assert labels["n_rows"].tolist() == [30] * 4
    assert {"modality", "doses", "covariates"} <= set(labels)
    _, metrics, _ = s.score(f"e.{suffix}")
    ours = json.loads(Path(f"runs/{run}/metrics.json").read_text())
    for name in ("delta.pearson", "uncertainty.nll", "scperturbench.edistance_top20"):
        assert of(metrics, name) == pytest.approx(of(ours, name), rel=1e-5)
