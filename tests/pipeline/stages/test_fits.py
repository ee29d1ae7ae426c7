"""Fits, predictions and scores in the store: found again by their keys, refused on other data, made one at a time."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from perturbfm_core.data.simulate import simulate
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError
from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.leaderboard import rank
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.locks import file_lock
from perturbfm_core.store.machine import cores
from perturbfm_core.store.owner import host_name
from tests.support.small_store import CONFIG, config, entry
from tests.support.stages import fit, opened, predict, publish, score


def test_each_stage_leaves_one_object_and_finds_it_again(store, ds, split):
    stages = (fit, predict, score)
    first = [stage(store, ds, split, config()) for stage in stages]
    assert [s.reused for s in first] == [False, False, False]
    files = {p: p.stat().st_mtime_ns for p in store.objects.rglob("*") if p.is_file()}
    second = [stage(store, ds, split, config()) for stage in stages]
    assert [s.reused for s in second] == [True, True, True]
    assert [s.key for s in first] == [s.key for s in second]
    assert {p: p.stat().st_mtime_ns for p in store.objects.rglob("*") if p.is_file()} == files


@pytest.mark.parametrize("change", [{"seeds": (1,)}, {"name": "other"}, {"model": "control_only"}])
def test_what_decides_a_fit_decides_its_key(store, ds, split, change):
    other = model_configs(entry(**change))[0]
    keys = [opened(store, ds, split, c).keys.model for c in (other, config())]
    assert keys[0] != keys[1]


def test_a_changed_panel_is_scored_again_and_nothing_else(store, ds, split, changed_code, every_panel):
    keys = [stage(store, ds, split, config()).key for stage in (fit, predict)]
    before = score(store, ds, split, config())
    changed_code("panels.delta")
    after = score(store, ds, split, config())
    assert [stage(store, ds, split, config()).key for stage in (fit, predict)] == keys
    assert {n for n in before.panels if before.panels[n].key != after.panels[n].key} == {"delta"}
    assert [n for n, a in after.panels.items() if not a.reused] == ["delta"]
    assert before.key != after.key


def test_a_changed_calibrator_is_fitted_again(store, ds, split, changed_code):
    fit(store, ds, split, config())
    changed_code("uncertainty.scaling")
    assert not fit(store, ds, split, config()).reused


def test_new_scores_of_an_old_prediction_name_their_parent(store, ds, split, changed_code):
    first = publish(store, ds, split, config())
    again = publish(store, ds, split, config(), again=True)
    changed_code("panels.delta")
    rescored = publish(store, ds, split, config())
    told = [read_json(p / "config.json") for p in (first, again, rescored)]
    assert [t["parent_run"] for t in told] == [None, None, again.name]
    assert told[2]["objects"]["prediction"] == told[0]["objects"]["prediction"]
    assert told[2]["objects"]["scores"] != told[0]["objects"]["scores"]
    rank(store)
    runs = database.query(store, "select run_id, is_current from runs order by created")
    assert runs["run_id"].tolist() == [first.name, again.name, rescored.name]
    assert runs["is_current"].tolist() == [False, False, True]
    # The standings are those of the newest run alone.
    board = database.query(
        store, "select n_seeds, n_splits from leaderboard where panel || metric = 'deltapearson'"
    )
    assert board.to_numpy().tolist() == [[1, 1]]


def test_a_model_is_told_nothing_of_the_test_conditions(store, ds, split, monkeypatch):
    """The fit sees train only, the prediction gets names and input controls only."""
    kind, seen = MODELS.get("global_mean"), {}
    plain_fit, plain_predict = kind._fit, kind._predict

    def spy_fit(self, view, seed):
        if len(view) > len(seen.get("fit", ())):
            seen["fit"], seen["view"] = view.conditions.index.tolist(), view
        plain_fit(self, view, seed)

    def spy_predict(self, query):
        seen["query"] = query
        return plain_predict(self, query)

    monkeypatch.setattr(kind, "_fit", spy_fit)
    monkeypatch.setattr(kind, "_predict", spy_predict)
    predict(store, ds, split, config())
    table = split.definition.folds.table
    assert set(seen["fit"]) == set(table["train"])
    assert set(seen["query"].conditions.index) == set(table["test"])
    assert set(vars(seen["query"])) == {"conditions", "genes", "control", "cells"}
    expected = condition_table(ds, split.rows(ds, "test")).control["input"]
    assert np.array_equal(seen["query"].control, expected)
    with pytest.raises(SplitError, match="a model must not read them"):
        seen["view"].expression(split.rows(ds, "test")[:1])


@pytest.mark.parametrize("wrong", ["data", "genes"])
def test_fit_refuses_other_data_whoever_calls(store, split, wrong):
    changes = {"data": {"seed": 1}, "genes": {"n_genes": 41}}
    other = simulate(CONFIG.model_copy(update=changes[wrong]))[0]
    with pytest.raises(SplitError, match="belongs to data set 'small'"):
        fit(store, other, split, config())
    assert not store.objects.exists()


def test_fit_that_fails_leaves_nothing(store, ds, split, monkeypatch):
    def explode(self, view, seed):
        msg = "no memory left"
        raise MemoryError(msg)

    monkeypatch.setattr(MODELS.get("global_mean"), "_fit", explode)
    with pytest.raises(MemoryError, match="no memory left"):
        run_entry(store, split.hash, entry())
    left = {p.name for p in store.runs.rglob("*") if p.is_file() and p.parent.name != ".locks"}
    # What belongs to the split was computed before the fit and serves the next one.
    assert left == {"bounds.json", "conditions.npz", "scale.json"}


def test_second_training_waits_for_a_slot(store, ds, split):
    told, waiting = [], threading.Event()

    def progress(text):
        told.append(text)
        if "waiting" in text:
            waiting.set()

    with ThreadPoolExecutor(1) as pool:
        with store.training_slot("run the-first") as slots:
            assert slots == 1
            future = pool.submit(fit, store, ds, split, config(), progress)
            assert waiting.wait(30)
            assert not future.done()
        assert not future.result(60).reused
    assert len(told) == 2
    since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    where = rf"\(process {os.getpid()} on {host_name()}\)"
    assert re.fullmatch(f"waiting for a training slot held by run the-first since {since} {where}", told[0])
    assert told[1] == "fitting global_mean, seed 0"


def test_slots_are_as_many_as_the_environment_says(store, monkeypatch):
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", "2")
    with store.training_slot() as one, store.training_slot() as two:
        assert (one, two) == (2, 2)
        busy = [p.name for p in store.locks.iterdir() if not _free(p)]
    assert sorted(busy) == [f"train-{host_name()}-{i}.lock" for i in (0, 1)]


def _free(path):
    with file_lock(path, wait=False) as held:
        return held


def test_inapplicable_cell_says_why(store, split, monkeypatch):
    monkeypatch.setattr(MODELS.get("global_mean"), "requires", Requires(min_contexts=3))
    with pytest.raises(
        SplitError,
        match=r"'global_mean' is not applicable to split small.context_ood.*: it needs 3 train contexts",
    ):
        run_entry(store, split.hash, entry())


@pytest.mark.parametrize(
    ("asked", "given"), [("1", 1), ("99999", None), ("0", None), ("all", None), ("", None)]
)
def test_threads_are_no_more_than_cores_and_than_asked_for(asked, given, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    own = cores()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cores() == (own if given is None else given)
