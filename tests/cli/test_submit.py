"""Predictions made elsewhere as runs: published once, ranked beside the baselines, refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.store.run_record import is_whole, read_run_record
from tests.support.command import attempt, perturbfm
from tests.support.page_parts import parts_of
from tests.support.prediction_tables import line, table_of


@pytest.fixture
def mine(work) -> Path:
    table_of(work).to_csv("mine.csv")
    return Path("mine.csv")


def runs_of(work) -> list[str]:
    return sorted(p.name for p in (work.path / "runs").glob("2*_*"))


# ---- published and ranked ----------------------------------------------------------------------------------------


def test_a_submission_stands_beside_the_baselines(work, mine):
    done = perturbfm(
        *line(work, mine, "mine", "--note", "a line", "--url", "https://example.org/mine")
    ).values
    digest = hashlib.sha256(mine.read_bytes()).hexdigest()
    assert (done["entry"], done["family"], done["existing"]) == ("mine", "external", "false")
    assert done["file_sha256"] == digest
    run = work.path / "runs" / done["run_id"]
    record = read_run_record(run)
    assert is_whole(run, record)
    assert (record.submission.file, record.submission.note) == ("mine.csv", "a line")
    refreshed = perturbfm("leaderboard", "refresh", "--page").values
    assert (refreshed["entries"], refreshed["skipped"]) == ("2", "0")
    shown = {
        r["entry"]: r for r in perturbfm("leaderboard", "show", "--metric", "delta.pearson", "--json").json
    }
    assert set(shown) == {"mine", "global_mean"}
    best = shown["mine"]
    assert best["best_baseline"] == "global_mean"
    assert best["rank"] is not None
    # The difference is that of the two values, and its interval holds it.
    assert best["diff_best_baseline"] == pytest.approx(best["value"] - shown["global_mean"]["value"])
    metrics = json.loads((work.path / "runs" / done["run_id"] / "metrics.json").read_text())
    assert best["value"] == pytest.approx(metrics["delta"]["global"]["pearson"])
    with duckdb.connect(str((work.path / "runs/leaderboard.duckdb").resolve()), read_only=True) as con:
        found = con.execute("SELECT family, file_sha256, note, url FROM runs WHERE entry = 'mine'").fetchall()
        families = con.execute("SELECT DISTINCT family FROM leaderboard WHERE entry = 'mine'").fetchall()
    assert found == [("external", digest, "a line", "https://example.org/mine")]
    assert families == [("external",)]
    assert ">mine<" in (work.path / "runs/leaderboard.html").read_text()


def test_boards_say_what_predictions_are_warned_of(work, mine):
    table = table_of(work)
    table.iloc[1:] = table.iloc[:1].to_numpy()
    table.to_csv("same.csv")
    said = f"all {len(table)} conditions have the same prediction"
    for name in ("same", "mine"):
        perturbfm(*line(work, f"{name}.csv", name))
    perturbfm("leaderboard", "refresh", "--page")
    shown = perturbfm("leaderboard", "show", "--metric", "delta.pearson").out
    assert f"  warned of: same: {said}" in shown
    assert "warned of: mine" not in shown
    rows = perturbfm("leaderboard", "show", "--metric", "delta.pearson", "--json").json
    assert {r["entry"]: r["warned_of"] for r in rows} == {"same": said, "mine": None, "global_mean": None}
    head = parts_of((work.path / "runs/leaderboard.html").read_text())["head"]
    assert {e["name"]: e["warnedOf"] for e in head["entries"] if "warnedOf" in e} == {"same": said}


def test_interval_and_paired_difference_where_there_are_enough_units(work):
    perturbfm("data", "make-synth", "--out", "E", "--n-obs", 400, "--n-genes", 50, "--n-perts", 12)
    genes = sorted(
        {
            k
            for k in open_dataset(work.path / "E").obs["pert_id"].astype(str)
            if k.startswith("G") and "+" not in k
        }
    )
    held = [x for g in genes[:6] for x in ("--holdout-perturbation", g)]
    split = perturbfm("splits", "create", "--data", "E", "--spec", "perturbation_ood", *held, warns=True)
    other = replace(work, split=split.values["split_hash"])
    perturbfm("run", "--data", "E", "--split", other.split, "--entry", "global_mean")
    for name, scale in (("noise", 1.0), ("half", 0.1)):
        table_of(other, scale, data="E").to_csv(f"{name}.csv")
        perturbfm("submit", f"{name}.csv", "--data", "E", "--split", other.split, "--entry", name)
    perturbfm("leaderboard", "refresh")
    shown = perturbfm(
        "leaderboard", "show", "--metric", "delta.rmse", "--board", "perturbation", "--json"
    ).json
    rows = {r["entry"]: r for r in shown}
    assert set(rows) == {"noise", "half", "global_mean"}
    for row in rows.values():
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
        assert row["diff_low"] <= row["diff_best_baseline"] <= row["diff_high"]
    assert rows["noise"]["diff_low"] > 0
    # Two of one's own, compared: the difference has its interval, too.
    (row,) = perturbfm("runs", "compare", "noise", "half", "--metric", "delta.rmse", "--json").json["metrics"]
    assert row["diff"] == pytest.approx(rows["noise"]["value"] - rows["half"]["value"])
    assert 0 < row["diff_low"] < row["diff"] < row["diff_high"]
    assert row["verdict"] == "worse"
    (row,) = perturbfm("runs", "compare", "half", "noise", "--metric", "delta.rmse", "--json").json["metrics"]
    assert row["verdict"] == "better"
    (row,) = perturbfm("runs", "compare", "half", "half", "--metric", "delta.rmse", "--json").json["metrics"]
    assert (row["diff"], row["verdict"]) == (0.0, "not told apart")


@pytest.mark.parametrize("form", ["csv", "parquet", "npz", "h5ad"])
def test_what_is_published_scores_and_exports_as_the_file_does(work, form):
    table = table_of(work, 0.3)
    file = f"p.{form}"
    if form == "csv":
        table.to_csv(file)
    elif form == "parquet":
        table.to_parquet(file)
    elif form == "npz":
        np.savez(
            file,
            mean=table.to_numpy(),
            genes=np.array(table.columns, str),
            condition=np.array(table.index, str),
        )
    else:
        import anndata

        adata = anndata.AnnData(
            table.to_numpy(), pd.DataFrame(index=table.index), pd.DataFrame(index=table.columns)
        )
        adata.uns["kind"] = "delta"
        adata.write_h5ad(file)
    scored = perturbfm(
        "eval", "predictions", "--data", "D", "--split", work.split, "--preds", file, "--out", "o"
    )
    done = perturbfm(*line(work, file)).values
    run = work.path / "runs" / done["run_id"]
    own = json.loads(Path("o/metrics.json").read_text())
    assert json.loads((run / "metrics.json").read_text()) == own
    assert done["delta.pearson_centered"] == scored.values["delta.pearson_centered"]
    prediction = read_prediction(run / "predictions.npz")
    assert prediction.condition.tolist() == list(table.index)
    assert np.allclose(prediction.mean, table.to_numpy(), atol=1e-6)
    perturbfm("export", done["run_id"], "--out", "again.parquet")
    back = pd.read_parquet("again.parquet").pivot_table(index="condition", columns="gene", values="mean")
    assert np.allclose(back.loc[table.index, table.columns], table, atol=1e-6)


def test_eval_publish_is_submit(work, mine):
    words = ["eval", "predictions", "--data", "D", "--split", work.split, "--preds", mine]
    done = perturbfm(*words, "--publish", "--entry", "mine", "--seed", 2).values
    assert (done["existing"], done["seed"]) == ("false", "2")
    assert perturbfm(*line(work, mine, "mine", "--seed", 2)).values["existing"] == "true"
    assert runs_of(work) == sorted([work.run, done["run_id"]])


# ---- once --------------------------------------------------------------------------------------------------------


def test_the_same_file_finds_its_run(work, mine):
    first = perturbfm(*line(work, mine)).values
    shutil.copy(mine, "other_name.csv")
    for file in (mine, "other_name.csv"):
        found = perturbfm(*line(work, file)).values
        assert (found["existing"], found["run_id"]) == ("true", first["run_id"])
    again = perturbfm(*line(work, mine, "mine", "--again")).values
    assert again["existing"] == "false"
    assert read_run_record(work.path / "runs" / again["run_id"]).parent_run == first["run_id"]
    # Read in another way, or damaged in place, it is not the same.
    assert perturbfm(*line(work, mine, "mine", "--kind", "delta"), warns=True).values["existing"] == "false"
    (work.path / "runs" / again["run_id"] / "metrics.json").write_text("{}")
    (work.path / "runs" / first["run_id"] / "metrics.json").write_text("{}")
    assert perturbfm(*line(work, mine)).values["existing"] == "false"


def test_a_later_file_takes_the_place_of_an_earlier_one_and_seeds_are_averaged(work):
    values = {}
    for name, seed, scale in (("old", 0, 1.0), ("new", 0, 0.5), ("second", 1, 0.7)):
        table_of(work, scale, seed=len(name)).to_csv(f"{name}.csv")
        done = perturbfm(*line(work, f"{name}.csv", "mine", "--seed", seed)).values
        values[name] = float(done["delta.rmse"]) if "delta.rmse" in done else None
        metrics = json.loads((work.path / "runs" / done["run_id"] / "metrics.json").read_text())
        values[name] = metrics["delta"]["global"]["rmse"]
    perturbfm("leaderboard", "refresh")
    shown = {r["entry"]: r for r in perturbfm("leaderboard", "show", "--metric", "delta.rmse", "--json").json}
    assert shown["mine"]["value"] == pytest.approx((values["new"] + values["second"]) / 2)


# ---- refused in one line -----------------------------------------------------------------------------------------

REFUSED = {
    "catalog entry": (["--entry", "ridge"], "entry 'ridge' is a model of the catalog"),
    "registered model": (["--entry", "perturbfm-v2"], "is a model of the catalog"),
    "no key": (["--entry", "My Model"], "cannot be a key"),
    "parent": (["--entry", "a..b"], "cannot be a key"),
    "address": (["--url", "ftp://x"], "begins with https:// or http://"),
    "script": (["--url", "javascript:alert(1)"], "begins with https:// or http://"),
    "note": (["--note", "two\nlines"], "note must be one line"),
    "long note": (["--note", "x" * 600], "at most 500 characters"),
    "seed": (["--seed", "-1"], "--seed"),
    "split": (["--split", "0" * 64], "no split"),
    "data": (["--data", "nowhere"], "nowhere"),
    "kind": (["--kind", "rates"], "rates"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_nothing(work, mine, name):
    options, expected = REFUSED[name]
    done = attempt(*line(work, mine), *options)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert expected in done.err
    assert runs_of(work) == [work.run]
    assert not list((work.path / "runs/.staging").glob("*"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist"),
        ("", "bad.csv"),
        ("condition,G0\nx|y,1\n", "bad.csv"),
        ("\x00\x01", "bad.csv"),
    ],
)
def test_a_bad_file_is_refused(work, content, expected):
    if content is not None:
        Path("bad.csv").write_text(content)
    done = attempt(*line(work, "bad.csv"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert expected in done.err or "prediction" in done.err
    assert runs_of(work) == [work.run]


def test_a_name_that_fitted_runs_have_is_refused(work, mine):
    perturbfm("run", "--data", "D", "--split", work.split, "--entry", "linear", "--name", "ours")
    done = attempt(*line(work, mine, "ours"))
    assert done.code == 2
    assert "entry 'ours' has runs of a fitted model" in done.err
    perturbfm(*line(work, mine, "theirs"))
    run = ["run", "--data", "D", "--split", work.split, "--entry", "linear", "--name", "theirs"]
    done = attempt(*run)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "entry 'theirs' has runs of predictions made elsewhere" in done.err
    # A longer name is another.
    perturbfm(*line(work, mine, "theirs_too"))
    perturbfm(*run[:-1], "their")


@pytest.mark.parametrize("out", ["runs/mymodel", "runs/a/b", "runs", "./runs/../runs/x"])
def test_scores_among_the_runs_are_refused_with_the_verb_that_fits(work, mine, out):
    before = runs_of(work)
    words = ["eval", "predictions", "--data", "D", "--split", work.split, "--preds", mine, "--out", out]
    done = attempt(*words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "perturbfm submit" in done.err
    assert runs_of(work) == before
    assert not (work.path / "runs/mymodel").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "give --out DIR"),
        (["--out", "o", "--publish", "--entry", "mine"], "one of the two"),
        (["--publish"], "--publish needs --entry NAME"),
        (["--out", "o", "--note", "x"], "need --publish"),
        (["--out", "o", "--seed", "2"], "need --publish"),
    ],
)
def test_eval_takes_one_place(work, mine, options, expected):
    done = attempt("eval", "predictions", "--data", "D", "--split", work.split, "--preds", mine, *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert expected in done.err
    assert not Path("o").exists()


# ---- runs without a fitted model ---------------------------------------------------------------------------------


def test_verbs_that_need_a_fitted_model_say_so(work, mine):
    run = perturbfm(*line(work, mine)).values["run_id"]
    for words in (["predict", "--perturbation", "G1", "--context", "C1"], ["suggest"]):
        done = attempt(*words, "--split", work.split, "--run", run, "--data", "D")
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert f"run {run} holds predictions made elsewhere and no fitted model" in done.err


def test_verbs_that_read_runs_take_submissions(work, mine):
    run = perturbfm(*line(work, mine)).values["run_id"]
    perturbfm("export", run, "--out", "s.csv", "--what", "scores")
    perturbfm("splits", "audit", work.split, "--data", "D", "--run", f"runs/{run}")
    perturbfm("leaderboard", "refresh")
    perturbfm("leaderboard", "results")
    compared = perturbfm("leaderboard", "compare", "--family", "external", "--json").json
    assert [(r["entry"], r["reference"]) for r in compared] == [("mine", "global_mean")]
    # A fitted entry still finds its own run beside it.
    assert (
        perturbfm("train", "global_mean", "--data", "D", "--split", work.split).values["existing"] == "true"
    )
