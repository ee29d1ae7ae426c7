"""The runs of a store as typed: listed, shown, compared, tagged, removed, and what is collected."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import read_run_record
from perturbfm_core.store.run_removal import Garbage, collect_garbage, find_garbage
from tests.support.command import attempt, perturbfm
from tests.support.prediction_tables import line, table_of


@pytest.fixture
def three(work):
    """Return the ids of three runs: a baseline, a linear model, a submission."""
    linear = perturbfm("run", "--data", "D", "--split", work.split, "--entry", "linear").values["run_id"]
    table_of(work, 0.2).to_csv("mine.csv")
    mine = perturbfm(*line(work, "mine.csv", "mine", "--note", "a line")).values["run_id"]
    return work.run, linear, mine


def listed(*options):
    return [r["run_id"] for r in perturbfm("runs", "list", *options, "--json").json]


# ---- list and show -----------------------------------------------------------------------------------------------


def test_list_is_newest_first_with_filters(work, three):
    base, linear, mine = three
    assert set(listed()) == set(three)
    assert listed("--family", "external") == [mine]
    assert listed("--family", "learned", "--entry", "mine") == []
    assert listed("--entry", "linear") == [linear]
    assert listed("--dataset", "nothing") == []
    assert set(listed("--split", work.split[:7])) == set(listed("--split", "context_ood")) == set(three)
    assert listed("--split", "combo") == []
    again = perturbfm(*line(work, "mine.csv", "mine", "--again")).values["run_id"]
    assert listed("--last", 1) == [again]
    assert set(listed("--current")) == {base, linear, again}
    rows = {r["run_id"]: r for r in perturbfm("runs", "list", "--metric", "delta.rmse", "--json").json}
    for name in (*three, again):
        metrics = json.loads((work.path / "runs" / name / "metrics.json").read_text())
        assert rows[name]["rmse"] == metrics["delta"]["global"]["rmse"]
    text = perturbfm("runs", "list").out.splitlines()
    assert len(text) == 5
    assert text[0].split()[:4] == ["run_id", "created", "dataset", "kind"]


def test_list_of_nothing_says_why(work):
    assert "(no rows: no run in" in perturbfm("runs", "list", "--entry", "nope").out
    assert perturbfm("runs", "list", "--entry", "nope", "--json").json == []
    shutil.rmtree("runs")
    assert "(no rows" in perturbfm("runs", "list").out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--family", "fancy"], "family 'fancy' is none; give one of baseline, learned, external"),
        (["--metric", "delta.nope"], "nope"),
        (["--last", "0"], "--last"),
    ],
)
def test_list_refuses_filters_that_are_none(work, options, expected):
    done = attempt("runs", "list", *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert expected in done.err


@pytest.mark.parametrize("damage", ["config.json", "report.html"])
def test_a_run_that_cannot_be_read_is_named(work, three, damage):
    (work.path / "runs" / three[1] / damage).unlink()
    done = perturbfm("runs", "list", "--json", warns=True)
    assert {r["run_id"] for r in done.json} == {three[0], three[2]}
    assert f"warning: run {three[1]} cannot be read" in done.err


def test_show_says_what_a_run_is_made_of(work, three):
    base, _, mine = three
    shown = perturbfm("runs", "show", base).values
    record = read_run_record(work.path / "runs" / base)
    assert (shown["config_hash"], shown["whole"]) == (record.config_hash, "true")
    metrics = json.loads((work.path / "runs" / base / "metrics.json").read_text())
    # `key=value` lines have four digits, JSON has all.
    whole = perturbfm("runs", "show", base, "--json").json
    for name, value in metrics["linear_paper"]["global"].items():
        if name == "l2":
            assert float(shown["linear_paper.l2"]) == round(value, 4)
            assert whole["linear_paper.l2"] == value
    shown = perturbfm("runs", "show", mine, "--json").json
    assert (shown["family"], shown["note"], shown["file"]) == ("external", "a line", "mine.csv")
    (work.path / "runs" / base / "metrics.json").write_text(json.dumps(metrics) + " ")
    assert perturbfm("runs", "show", base).values["whole"] == "false"
    done = attempt("runs", "show", "2")
    assert (done.code, done.err.count("\n")) == (2, 1)


# ---- tags and removal --------------------------------------------------------------------------------------------


def test_tags_are_beside_the_run(work, three):
    base, linear, mine = three
    before = {p.name: p.read_bytes() for p in (work.path / "runs" / base).iterdir()}
    assert perturbfm("runs", "tag", base, "best", "paper", "--json").json["tags"] == ["best", "paper"]
    perturbfm("runs", "tag", mine, "paper")
    assert set(listed("--tag", "paper")) == {base, mine}
    perturbfm("runs", "tag", base, "--remove", "paper")
    assert listed("--tag", "paper") == [mine]
    assert perturbfm("runs", "show", base, "--json").json["tags"] == ["best"]
    assert {p.name: p.read_bytes() for p in (work.path / "runs" / base).iterdir()} == before
    for words in ([base], [base, "Not A Tag"], ["nope", "x"]):
        done = attempt("runs", "tag", *words)
        assert (done.code, done.err.count("\n")) == (2, 1)
    assert listed("--tag", "best") == [base]
    assert linear


def test_rm_takes_all_or_none(work, three):
    base, linear, mine = three
    perturbfm("runs", "tag", mine, "paper")
    for words in ([base, "nope"], [base, mine], ["2"], [""], ["D"], [".."], ["runs"]):
        done = attempt("runs", "rm", *words)
        assert (done.code, done.err.count("\n")) == (2, 1), words
        assert set(listed()) == set(three)
    assert Path("D/meta.json").is_file()
    assert perturbfm("runs", "rm", base, "--dry-run", "--json").json["removed"] is False
    assert set(listed()) == set(three)
    done = perturbfm("runs", "rm", base, f"runs/{linear}", "--json").json
    assert done["removed"] is True
    assert listed() == [mine]
    perturbfm("runs", "rm", mine, "--force")
    assert listed() == []
    assert json.loads((work.path / "runs/.tags.json").read_text()) == {}
    assert not list((work.path / "runs/.staging").glob("*"))
    perturbfm("leaderboard", "refresh")


def test_a_broken_run_can_be_removed(work, three):
    (work.path / "runs" / three[1] / "config.json").unlink()
    perturbfm("runs", "rm", three[1])
    assert set(listed()) == {three[0], three[2]}


# ---- compare -----------------------------------------------------------------------------------------------------


def test_compare_runs_and_entries_by_condition(work, three):
    base, linear, mine = three
    for a, b in ((base, mine), ("linear", "mine"), (mine, "linear"), (linear, base)):
        found = perturbfm("runs", "compare", a, b, "--metric", "delta.rmse", "--json").json
        (row,) = found["metrics"]
        values = []
        for name in (a, b):
            run = {"linear": linear, "mine": mine}.get(name, name)
            scores = pd.read_parquet(work.path / "runs" / run / "scores.parquet")
            keep = (
                (scores["scope"] == "condition") & (scores["panel"] == "delta") & (scores["metric"] == "rmse")
            )
            values.append(scores[keep].set_index("key")["value"])
        assert row["a"] == pytest.approx(values[0].mean())
        assert row["diff"] == pytest.approx((values[0] - values[1]).mean())
        assert row["n_conditions"] == len(values[0])
    assert found["runs"] == {"a": [linear], "b": [base]}
    differs = perturbfm("runs", "compare", linear, mine, "--json").json["differs"]
    assert differs["family"] == ["baseline", "external"] or differs["family"] == ["learned", "external"]
    assert differs["file_sha256"][0] is None
    text = perturbfm("runs", "compare", linear, mine).out
    assert "differs_model=" in text
    assert row["folds"] == "one split"
    assert len(perturbfm("runs", "compare", linear, mine, "--all", "--json").json["metrics"]) > 20


def test_compare_needs_a_split_in_common(work, three):
    held = ("--spec", "context_ood", "--holdout-context", "C1")
    split = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
    perturbfm("run", "--data", "D", "--split", split, "--entry", "additive")
    for words in (["additive", "mine"], ["nope", "mine"], ["additive", "delta"]):
        done = attempt("runs", "compare", *words)
        assert (done.code, done.err.count("\n")) == (2, 1)
    assert "no split is in both" in attempt("runs", "compare", "additive", "mine").err


# ---- gc ----------------------------------------------------------------------------------------------------------


def objects(work):
    return {p.name for p in (work.path / "runs/.objects").glob("*/*")}


def test_gc_drops_what_no_run_needs_and_says_so_first(work, three):
    base, linear, mine = three
    before = objects(work)
    assert perturbfm("runs", "gc", "--min-age", 0, "--json").json["objects"] == 0
    gone = read_run_record(work.path / "runs" / linear).objects
    perturbfm("runs", "rm", linear)
    # Young objects may be of a run that is being made.
    assert perturbfm("runs", "gc", "--json").json["objects"] == 0
    found = perturbfm("runs", "gc", "--min-age", 0, "--json").json
    keys = {gone.model, gone.prediction, *gone.panels.values()}
    assert (found["removed"], found["objects"]) == (False, len(keys))
    assert objects(work) == before
    assert perturbfm("runs", "gc", "--min-age", 0, "--yes", "--json").json["removed"] is True
    assert before - objects(work) == keys
    # What stays is found, what is gone is made again.
    assert (
        perturbfm("train", "global_mean", "--data", "D", "--split", work.split).values["existing"] == "true"
    )
    again = perturbfm("run", "--data", "D", "--split", work.split, "--entry", "linear").values
    assert again["existing"] == "false"
    assert set(listed()) == {base, mine, again["run_id"]}


def test_gc_keeps_the_newest_of_each_configuration_and_tagged_runs(work, three):
    base, linear, mine = three
    newer = [perturbfm(*line(work, "mine.csv", "mine", "--again")).values["run_id"] for _ in range(3)]
    perturbfm("runs", "tag", newer[0], "paper")
    planned = perturbfm("runs", "gc", "--keep", 1, "--json").json
    assert set(planned["runs"]) == {mine, newer[1]}
    assert set(listed()) == {*three, *newer}
    perturbfm("runs", "gc", "--keep", 1, "--yes")
    assert set(listed()) == {base, linear, newer[0], newer[2]}
    assert perturbfm("runs", "gc", "--keep", 1, "--json").json["runs"] == []


def test_gc_counts_no_run_whose_files_are_damaged(work, three):
    _, _, mine = three
    newer = perturbfm(*line(work, "mine.csv", "mine", "--again")).values["run_id"]
    (work.path / "runs" / newer / "scores.parquet").unlink()
    assert perturbfm("runs", "gc", "--keep", 1, "--json").json["runs"] == []
    assert (work.path / "runs" / mine).is_dir()


def test_gc_leaves_objects_where_a_run_cannot_be_read(work, three):
    (work.path / "runs" / three[1] / "config.json").write_text("{")
    assert perturbfm("runs", "gc", "--min-age", 0, "--json").json["objects"] == 0


@pytest.mark.parametrize("reuse", ["find", "put_object", "late"])
def test_gc_keeps_what_a_run_in_progress_has_taken_up(work, three, reuse):
    """An old object that no run refers to, found again by a run that is not published yet."""
    store = ArtifactStore()
    key = read_run_record(work.path / "runs" / three[1]).objects.model
    perturbfm("runs", "rm", three[1])
    old = time.time() - 90_000
    for path in store.objects.glob("*/*"):
        os.utime(path, (old, old))
    planned = find_garbage(store)
    assert store.object(key) in planned.objects
    if reuse == "put_object":
        store.put_object(key, lambda folder: None)
    else:
        assert store.find(key).reused
    if reuse != "late":
        planned = find_garbage(store)
        assert store.object(key) not in planned.objects
    # Taken up between the look and the removal, it stays as well.
    collect_garbage(store, planned)
    assert store.object(key).is_dir()
    assert planned.objects
    assert not any(p.exists() for p in planned.objects if p != store.object(key))


def test_an_object_is_dated_by_the_moment_and_not_by_the_last_tick_of_the_clock(work, three):
    """The kernel's own "now" is some milliseconds old, and so may be before the look of a collection."""
    store = ArtifactStore()
    key = read_run_record(work.path / "runs" / three[1]).objects.model
    for _ in range(20):
        before = time.time_ns()
        store.find(key)
        assert store.object(key).stat().st_mtime_ns >= before


def test_gc_without_a_least_age_removes_what_was_written_this_moment(own_home):
    store = ArtifactStore()
    for i in range(5):
        work = store.external_work / f"fit{i}"
        work.mkdir(parents=True)
        (work / "weights.bin").write_bytes(b"0")
        collect_garbage(store, find_garbage(store, min_age_s=0))
        assert not work.exists()


def test_gc_goes_on_where_another_one_has_just_removed_an_object(work, three, monkeypatch):
    perturbfm("runs", "rm", three[1])
    store, stat = ArtifactStore(), Path.stat
    old = time.time() - 90_000
    for path in store.objects.glob("*/*"):
        os.utime(path, (old, old))
    first, *others = sorted(find_garbage(store).objects)

    def removed(path, **options):
        if path == first:
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", removed)
    assert find_garbage(store).objects == tuple(others)


def test_gc_goes_on_where_another_one_has_just_removed_a_run(own_home):
    store = ArtifactStore()
    gone, there = (store.run(f"20240101-00000{i}_aaaaaaa_ridge_00000000") for i in range(2))
    there.mkdir(parents=True)
    collect_garbage(store, Garbage((gone, there), (), 0))
    assert not there.exists()


def test_gc_knows_the_age_of_an_object(work, three):
    perturbfm("runs", "rm", three[1])
    old = time.time() - 90_000
    for path in ArtifactStore().objects.glob("*/*"):
        os.utime(path, (old, old))
    assert perturbfm("runs", "gc", "--json").json["objects"] > 0
    assert np.isfinite(perturbfm("runs", "gc", "--json").json["bytes"])
