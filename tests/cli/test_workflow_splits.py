"""Frozen splits, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.support.command import attempt, perturbfm
from tests.support.workflow import CONTEXT, SYNTH


def test_a_split_is_found_by_prefix_and_key(work):
    wanted = perturbfm("splits", "show", work.split).values
    assert perturbfm("splits", "show", work.split[:7]).values == wanted
    assert perturbfm("splits", "show", wanted["key"]).values == wanted
    trained = perturbfm("train", "control_only", "--data", "D", "--split", work.split[:9])
    assert trained.values["split_hash"] == work.split


def test_the_same_request_finds_the_same_split(work):
    files = {p.name: p.read_bytes() for p in (work.path / "splits").iterdir()}
    again = perturbfm(*CONTEXT).values
    assert again["split_hash"] == work.split
    assert again["new"] == "false"
    assert {p.name: p.read_bytes() for p in (work.path / "splits").iterdir()} == files


@pytest.mark.parametrize(
    ("kind", "k"),
    [("perturbation_ood", 3), ("combo_ood", 2), ("context_ood", 3), ("leave_one_context_out", 3)],
)
def test_k_folds_at_once_and_one_by_one(work, kind, k):
    folds = [] if kind == "leave_one_context_out" else ["--folds", k]
    base = ("splits", "create", "--data", "D", "--spec", kind, *folds, "--no-bounds")
    together = perturbfm(*base, "--json").json["splits"]
    assert [s["cv"].split(" fold ")[1] for s in together] == [f"{i} of {k}" for i in range(k)]
    assert len({s["split_hash"] for s in together}) == k
    alone = perturbfm(*base, "--fold", k - 1).values
    assert alone["split_hash"] == together[-1]["split_hash"]
    assert alone["new"] == "false"
    listed = perturbfm("splits", "list", "--json").json
    assert len({r["cv_group"] for r in listed if r["fold"] is not None}) == 1
    assert sorted(r["fold"] for r in listed if r["fold"] is not None) == list(range(k))
    assert len(perturbfm("splits", "list").out.splitlines()) == len(listed) + 1


def test_folds_partition_the_conditions(work):
    made = perturbfm(
        *("splits", "create", "--data", "D", "--spec", "combo_ood", "--folds", 2, "--no-bounds", "--json")
    ).json["splits"]
    tests = [
        set(perturbfm("splits", "show", s["split_hash"], "--json").json["folds"]["table"]["test"])
        for s in made
    ]
    conditions = {key for key in _conditions(work) if "+" in key.split("|")[1]}
    assert tests[0] | tests[1] == conditions
    assert not tests[0] & tests[1]


def _conditions(work):
    table = perturbfm("splits", "show", work.split, "--json").json["folds"]["table"]
    return [key for keys in table.values() for key in keys]


def test_explicit_folds_from_json_and_csv_are_one_split(work):
    keys = sorted(_conditions(work))
    folds = {"test": keys[:4], "unused": keys[4:6], "val": keys[6:8]}
    Path("folds.json").write_text(json.dumps(folds))
    rows = [f'"{key}",{fold}' for fold, members in folds.items() for key in members]
    Path("folds.csv").write_text("\n".join(["condition,fold", *rows]) + "\n")
    base = ("splits", "create", "--data", "D", "--spec", "explicit", "--conditions")
    one, two = perturbfm(*base, "folds.json").values, perturbfm(*base, "folds.csv").values
    assert one["split_hash"] == two["split_hash"]
    assert (one["new"], two["new"]) == ("true", "false")
    table = perturbfm("splits", "show", one["split_hash"], "--json").json["folds"]["table"]
    assert {fold: table[fold] for fold in folds} == folds
    assert set(table["train"]) == set(keys[8:])
    run = perturbfm("train", "global_mean", "--data", "D", "--split", one["split_hash"]).values
    tested = pd.read_parquet(f"{run['run_dir']}/scores.parquet").query("scope == 'condition'")["key"]
    assert set(tested) == set(folds["test"])


def test_explicit_folds_by_perturbation_id_join_one_cross_validation(work):
    perts = sorted({key.split("|")[1] for key in _conditions(work) if "+" in key})
    groups = []
    for i, pert in enumerate(perts[:2]):
        Path(f"fold{i}.json").write_text(json.dumps({"test": ["+".join(reversed(pert.split("+")))]}))
        made = perturbfm(
            *("splits", "create", "--data", "D", "--spec", "explicit", "--conditions", f"fold{i}.json"),
            *("--cv-group", "published", "--folds", 2, "--fold", i, "--no-bounds"),
        ).values
        groups.append(made["cv"].split(" fold "))
        shown = perturbfm("splits", "show", made["split_hash"], "--json").json
        assert {key.split("|")[1] for key in shown["folds"]["table"]["test"]} == {pert}
    assert groups[0][0] == groups[1][0]
    assert [g[1] for g in groups] == ["0 of 2", "1 of 2"]


def test_verify_with_and_without_the_data(work):
    answer = perturbfm("splits", "verify", work.split, "--data", "D")
    assert answer.out == f"{work.split[:12]} ok (file and data)\nverified=1\nfailed=0\n"
    # D does not lie under data/, so it is not found by itself.
    assert "file only" in perturbfm("splits", "verify", "--all").out
    (work.path / "data").mkdir()
    (work.path / "D").rename(work.path / "data/d")
    assert "(file and data)" in perturbfm("splits", "verify", "--all").out


def test_migrate_carries_a_split_to_new_values(work):
    perturbfm(*SYNTH[:3], "D2", *SYNTH[4:], "--name", "d", "--depth", 2500)
    refused = attempt("train", "global_mean", "--data", "D2", "--split", work.split)
    assert refused.code == 2
    assert "perturbfm splits migrate" in refused.err
    moved = perturbfm("splits", "migrate", work.split, "--data", "D2").values
    assert moved["supersedes"] == work.split
    assert moved["split_hash"] != work.split
    old = perturbfm("splits", "show", work.split, "--json").json
    new = perturbfm("splits", "show", moved["split_hash"], "--json").json
    assert new["folds"] == old["folds"]
    assert new["stats"]["supersedes"] == work.split
    assert perturbfm("splits", "verify", moved["split_hash"], "--data", "D2").values["failed"] == "0"
    assert perturbfm("train", "global_mean", "--data", "D2", "--split", moved["split_hash"]).values["run_dir"]


def test_splits_are_listed_with_whole_numbers(work):
    perturbfm("splits", "create", "--data", "D", "--spec", "perturbation_ood", "--folds", "2", "--no-bounds")
    lines = perturbfm("splits", "list").out.splitlines()
    at = lines[0].split().index("fold")
    assert sorted(line.split()[at] for line in lines[1:]) == ["-", "0", "1"]
