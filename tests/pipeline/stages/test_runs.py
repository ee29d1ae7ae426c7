"""Published runs: found again, made again, damaged, two at once."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS
from perturbfm_core.pipeline import experiment
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.leaderboard import rank
from perturbfm_core.pipeline.rescoring import rescore, runs_to_rescore
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_record import read_run_record
from perturbfm_core.store.run_removal import find_garbage, remove_run
from perturbfm_core.store.run_requests import request_times
from tests.support.small_store import config, entry
from tests.support.stages import publish


def test_two_at_once_make_one_object_and_one_run(store, ds, split, every_panel):
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: run_entry(store, split.hash, entry("linear"))[0], range(2)))
    assert store.run_dirs() == [paths[0]] == [paths[1]]
    assert list(store.staging_root.iterdir()) == []
    # A fit, a prediction, strata, a calibration report, bounds and scale of the split, and scores per panel.
    assert len(list(store.objects.glob("*/*"))) == 6 + len(PANELS)


def test_asked_again_two_at_once_make_one_object_and_two_runs(store, ds, split, every_panel):
    with ThreadPoolExecutor(2) as pool:
        paths = list(
            pool.map(lambda _: run_entry(store, split.hash, entry("linear"), again=True)[0], range(2))
        )
    assert len(set(paths)) == 2
    keys = [read_json(p / "config.json")["objects"] for p in paths]
    assert keys[0] == keys[1]
    assert (paths[0] / "metrics.json").read_bytes() == (paths[1] / "metrics.json").read_bytes()
    assert len(list(store.objects.glob("*/*"))) == 6 + len(PANELS)


@pytest.mark.parametrize("objects", ["kept", "removed"])
def test_the_second_run_of_a_configuration_is_the_first(store, ds, split, monkeypatch, objects):
    first = publish(store, ds, split, config())
    if objects == "removed":
        shutil.rmtree(store.objects)
        monkeypatch.setattr(MODELS.get("global_mean"), "_fit", None)
    told = []
    assert publish(store, ds, split, config(), told.append) == first
    assert told == [f"found run {first.name}"]
    assert store.run_dirs() == [first]


@pytest.mark.parametrize(
    "change",
    [{"seeds": (1,)}, {"name": "other"}, {"model": "linear"}, {"uncertainty": {"ensemble": 2}}],
)
def test_another_configuration_is_another_run(store, ds, split, change):
    first = publish(store, ds, split, config())
    assert publish(store, ds, split, model_configs(entry(**change))[0]) != first


def test_the_configuration_that_was_asked_for_last_counts(store, ds, split, changed_code):
    one, two = (model_configs(entry("linear", uncertainty={"ensemble": n}))[0] for n in (2, 3))
    first, second = (publish(store, ds, split, c) for c in (one, two))

    def shown():
        rank(store, page=False)
        sql = "select run_id, counted, is_current from runs"
        found = database.query(store, sql)
        rank(store, page=False, from_nothing=True)
        assert database.query(store, sql).equals(found)
        (counted,) = found["run_id"][found["counted"]]
        assert found["is_current"].sum() == 2
        return counted

    assert shown() == second.name
    assert publish(store, ds, split, one) == first
    assert shown() == first.name
    # Scored again, each run has the place of the one that it comes from.
    changed_code("panels.delta")
    for found in runs_to_rescore(store, None):
        assert rescore(store, found.path).state == "rescored"
    third = read_run_record(store.run(shown()))
    assert third.rescored_from == first.name
    assert publish(store, ds, split, two).name not in (first.name, second.name)
    assert read_run_record(store.run(shown())).config_hash == two.config_hash
    # What is no longer current is removed first.
    (old,) = find_garbage(store, keep=1, min_age_s=0).runs[:1]
    assert old == first
    remove_run(store, old)
    assert first.name not in request_times(store)


@pytest.mark.parametrize(
    "text", ["panels.delta", "pipeline.prediction", "models.baselines.means", "pipeline.trained_model"]
)
def test_a_run_of_older_code_is_not_found(store, ds, split, changed_code, text):
    first = publish(store, ds, split, config())
    assert any(text in m for m in _modules_of_a_run())
    changed_code(text)
    second = publish(store, ds, split, config())
    assert second != first
    assert publish(store, ds, split, config()) == second


def _modules_of_a_run() -> set[str]:
    own = config().new_model().modules()
    stages = [f"perturbfm_core.pipeline.{n}" for n in ("trained_model", "prediction", "metric_panel")]
    panels = [m for p in PANELS.values() for m in p.modules]
    return set(experiment.code_of(*stages, *own, *panels).modules)


def _truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _edit(file):
    file.write_bytes(file.read_bytes().replace(b"0.", b"1.", 1) + b" ")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "scores.parquet", "metrics.json", "config.json", "report.html"]
)
@pytest.mark.parametrize("damage", [_truncate, _edit, Path.unlink], ids=["half", "edited", "missing"])
def test_a_damaged_run_is_not_found_and_does_not_stop_another(store, ds, split, name, damage):
    if (name, damage) == ("config.json", _edit):
        pytest.skip("an edit of the record that keeps its keys changes none of the files it speaks for")
    first = publish(store, ds, split, config())
    damage(first / name)
    second = publish(store, ds, split, config())
    assert second != first
    assert publish(store, ds, split, config()) == second


def test_leaderboard_of_nothing_is_empty_and_answers(store):
    target = rank(store)
    assert target.name == "leaderboard-1.duckdb"
    assert database.query(store, "select * from leaderboard").empty
    assert database.query(store, "select count(*) as n from splits")["n"].item() == 1
    assert "</html>" in store.leaderboard_page.read_text()


def test_incomplete_runs_are_not_listed(store, split):
    (run,) = run_entry(store, split.hash, entry())
    assert store.run_dirs() == [run]
    (run / "report.html").unlink()
    assert store.run_dirs() == []
    with pytest.raises(StoreError, match=r"no run in .* match"):
        store.find_run(run.name)
