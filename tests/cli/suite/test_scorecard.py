"""The scorecard of a suite: what it averages, counts and leaves out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm


def test_the_scorecard_has_the_values_of_the_runs(ran):
    answer = perturbfm("suite", "scorecard", "t", "--out", "card")
    assert answer.values["scorecard"] == "card/scorecard.json"
    card = json.loads(Path("card/scorecard.json").read_text())
    (context,) = [t for t in card["tasks"] if t["kind"] == "context_ood"]
    for entry in card["entries"]:
        (run,) = [
            p
            for p in ArtifactStore().run_dirs()
            if f"_{entry['entry']}_" in p.name and p.name.split("_")[1] in context["board"]
        ]
        value = json.loads((run / "metrics.json").read_text())["delta"]["global"]["pearson_centered"]
        found = entry["tasks"][context["board"]]
        assert found["value"] == (None if value is None else pytest.approx(value))
        assert found["coverage"] == 1.0
        assert entry["cost"]["cpu_s"] > 0
        assert entry["cost"]["parameters"] > 0
    ranks = {e["entry"]: e["tasks"][context["board"]]["rank"] for e in card["entries"]}
    assert sorted(ranks.values()) == [1.0, 2.0, 3.0]
    # A constant prediction has no correlation: the last place.
    assert ranks["global_mean"] == 3.0
    assert "Suite t" in Path("card/scorecard.html").read_text()


@pytest.mark.parametrize("small_fold", ["counts", "no signal", "not run"])
def test_the_scorecard_counts_folds_as_the_leaderboard_does(ran, small_fold):
    """Folds of six and four conditions, of which one may not count: the same numbers to the last digit."""
    folder = SplitFolder(Path("splits"))
    pairs = [h for h in folder.hashes() if folder.load(h).definition.kind == "combo_ood"]
    sizes = {h: folder.stats(h).counts["test"]["conditions"] for h in pairs}
    assert sorted(sizes.values()) == [4, 6]
    small = min(pairs, key=sizes.__getitem__)
    if small_fold == "not run":
        for path in ArtifactStore().run_dirs():
            if path.name.split("_")[1] == small[:7]:
                shutil.rmtree(path)
    elif small_fold == "no signal":
        folder.save_stats(small, folder.stats(small).model_copy(update={"no_signal": True}))
    perturbfm("leaderboard", "refresh")
    perturbfm("suite", "scorecard", "t", "--out", "card")
    card = json.loads(Path("card/scorecard.json").read_text())
    table = database.query(
        ArtifactStore(), "SELECT * FROM standings WHERE panel = 'delta' AND metric = 'pearson_centered'"
    ).replace(np.nan, None)
    rows = {(row["board"], row["entry"]): row for row in table.to_dict("records")}
    columns = {
        "control": "control_mean_floor",
        "train mean": "train_mean_floor",
        "half of the cells": "ceiling",
        "noise-free": "ceiling_noise_free",
    }
    for task in card["tasks"]:
        for entry in card["entries"]:
            found, row = entry["tasks"][task["board"]], rows.pop((task["board"], entry["entry"]))
            assert found["value"] == row["value"]
            assert (found["ci_low"], found["ci_high"]) == pytest.approx((row["ci_low"], row["ci_high"]))
            assert task["marks"] == {name: row[column] for name, column in columns.items()}
            assert (task["floor"], task["ceiling"]) == (row["control_mean_floor"], row["ceiling_noise_free"])
            assert (task["n_splits_no_signal"], task["counted"]) == (row["n_splits_no_signal"], True)
            # What was not run is not covered; what has no signal need not be.
            assert found["coverage"] * task["n_conditions"] == pytest.approx(row["n_conditions"])
            assert (found["coverage"] < 1) == (small_fold == "not run" and task["kind"] == "combo_ood")
    assert rows == {}
    said = "2 of 2 folds, of which 1 without signal left out"
    assert (said in Path("card/scorecard.html").read_text()) == (small_fold == "no signal")


def test_what_a_submission_leaves_out_is_not_covered(ran):
    (split,) = (r["hash"] for r in perturbfm("splits", "list", "--json").json if r["kind"] == "context_ood")
    keys = sorted(SplitFolder(Path("splits")).load(split).definition.folds.table["test"])
    genes = open_dataset(Path("data/tiny")).genes
    values = np.random.default_rng(0).normal(size=(len(keys), len(genes)))
    table = pd.DataFrame(values, index=pd.Index(keys, name="condition"), columns=genes)
    table.iloc[2:].to_csv("part.csv")
    answer = attempt(
        "submit", "part.csv", "--split", split, "--entry", "part", "--missing", "control", "--kind", "delta"
    )
    assert answer.code == 0, answer.err
    perturbfm("suite", "scorecard", "t", "--out", "card")
    card = json.loads(Path("card/scorecard.json").read_text())
    (context,) = [t for t in card["tasks"] if t["kind"] == "context_ood"]
    assert {name for name, value in context["marks"].items() if value is None} == set(context["mark_reasons"])
    (part,) = [e for e in card["entries"] if e["entry"] == "part"]
    n = len(keys)
    assert part["tasks"][context["board"]]["coverage"] == pytest.approx((n - 2) / n)
    assert part["coverage"] == pytest.approx((n - 2) / sum(t["n_conditions"] for t in card["tasks"]))
    said = f"2 of {n} conditions are not predicted and scored as their control"
    assert part["tasks"][context["board"]]["reason"].endswith(said)
    whole = {e["entry"]: e["coverage"] for e in card["entries"] if e["entry"] != "part"}
    assert set(whole.values()) == {1.0}


def test_a_suite_that_never_ran_has_no_scorecard(fresh):
    answer = attempt("suite", "scorecard", "t")
    assert (answer.code, answer.err) == (
        2,
        "error: no cell of suite 't' has run yet; run `perturbfm suite run t` first\n",
    )
