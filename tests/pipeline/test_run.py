"""The stages between a data set and the leaderboard, and the store that they write to."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core import schema
from perturbfm_core.catalog.entries import DatasetEntry, ModelEntry, SplitSpec, SuiteEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.data.prediction import RowPrediction, read_prediction, write_prediction
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import DatasetError, PredictionError, SplitError, StoreError
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.pipeline import experiment, metric_panel
from perturbfm_core.pipeline import split as freezing
from perturbfm_core.pipeline.dataset import ensure_dataset, find_dataset, import_dataset, open_dataset
from perturbfm_core.pipeline.experiment import ModelConfig, model_configs
from perturbfm_core.pipeline.leaderboard import rank
from perturbfm_core.pipeline.rescoring import rescore, runs_to_rescore
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.submission import evaluate_file
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.locks import file_lock
from perturbfm_core.store.machine import cores
from perturbfm_core.store.owner import host_name
from perturbfm_core.store.run_record import read_run_record
from perturbfm_core.store.run_removal import find_garbage, remove_run
from perturbfm_core.store.run_requests import request_times
from tests.support.few_panels import score_only
from tests.support.stages import fit, opened, predict, publish, score

CONFIG = SimulationConfig(name="small", n_obs=400, n_genes=40, n_contexts=3, n_perts=6)
CONTEXT = SplitSpec(kind="context_ood", params={"holdout": ["C1"]})


def entry(model="global_mean", **fields) -> ModelEntry:
    return ModelEntry(**{"name": model, "description": "x", "model": model, **fields})


def config(model="global_mean", **fields) -> ModelConfig:
    return model_configs(entry(model, **fields))[0]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make a store with one data set and one split, once."""
    path = tmp_path_factory.mktemp("store")
    store = ArtifactStore(path, path / "splits")
    import_dataset(store, simulate(CONFIG)[0], storage="npz")
    ((split, _, _),) = freeze_split(store, open_dataset(store.dataset("small")), CONTEXT)
    return path, split.hash


@pytest.fixture
def store(template, own_home) -> ArtifactStore:
    """Return a private copy of that store, where the environment says it is."""
    shutil.copytree(template[0], own_home)
    shutil.copytree(own_home / "splits", own_home.parent / "splits")
    return ArtifactStore()


@pytest.fixture
def every_panel() -> None:
    """Ask for the scores of every panel."""


@pytest.fixture(autouse=True)
def few_panels(request, monkeypatch) -> None:
    """Score two panels, where a test does not ask for all."""
    if "every_panel" not in request.fixturenames:
        score_only(monkeypatch, "delta")


@pytest.fixture
def split(template, store):
    return SplitFolder(store.split_dir).load(template[1])


@pytest.fixture
def ds(store):
    return open_dataset(store.dataset("small"))


# ---- stages ------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def changed_code(monkeypatch):
    """Return a function that makes the code of modules whose name holds a text look changed."""
    plain = experiment.code_of

    def change(text):
        def changed(*modules):
            code = plain(*modules)
            marked = {m: d + ("!" if text in m else "") for m, d in code.modules.items()}
            return replace(code, modules=marked)

        for module in (experiment, metric_panel):
            monkeypatch.setattr(module, "code_of", changed)

    return change


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
    assert left == {"bounds.json", "scale.json"}


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


def test_inapplicable_cell_says_why(store, split, monkeypatch):
    monkeypatch.setattr(MODELS.get("global_mean"), "requires", Requires(min_contexts=3))
    with pytest.raises(
        SplitError,
        match=r"'global_mean' is not applicable to split small.context_ood.*: it needs 3 train contexts",
    ):
        run_entry(store, split.hash, entry())


def test_splits_are_all_frozen_or_none(store, ds, monkeypatch):
    before = {p.name for p in store.split_dir.iterdir()}
    plain, calls = freezing.require_clean, []

    def second_leaks(dataset, split):
        calls.append(split.hash)
        if len(calls) == 2:
            msg = "leaks: planted"
            raise SplitError(msg)
        return plain(dataset, split)

    monkeypatch.setattr(freezing, "require_clean", second_leaks)
    with pytest.raises(SplitError, match="leaks: planted"):
        freeze_split(store, ds, SplitSpec(kind="leave_one_context_out"))
    assert {p.name for p in store.split_dir.iterdir()} == before


def test_bounds_left_out_at_the_freeze_come_with_the_first_scores(store, ds):
    spec = SplitSpec(kind="context_ood", params={"holdout": ["C2"]})
    ((split, stats, new),) = freeze_split(store, ds, spec, bounds=False)
    assert new
    assert (stats.ceiling, stats.no_signal) == (None, None)
    score(store, ds, split, config())
    stored = SplitFolder(store.split_dir).stats(split.hash)
    assert stored.ceiling["pearson"]["half"] is not None
    assert stored.no_signal in (True, False)
    # Freezing once more without bounds does not lose them.
    ((_, kept, again),) = freeze_split(store, ds, spec, bounds=False)
    assert not again
    assert kept.ceiling == stored.ceiling


# ---- predictions made elsewhere ------------------------------------------------------------------------------


@pytest.fixture
def prediction(store, ds, split) -> RowPrediction:
    made = predict(store, ds, split, config("per_perturbation_mean"))
    return read_prediction(made.path / schema.PREDICTIONS_FILE)


def scored(store, ds, split, prediction, out="out"):
    path = Path(f"{out}.npz")
    write_prediction(prediction, path)
    return evaluate_file(store, ds, split, path, Path(out))


def test_plain_form_without_names_scores_the_same_and_is_marked(store, ds, split, prediction):
    named = scored(store, ds, split, prediction)
    row = prediction.rows
    plain = RowPrediction(
        mean=prediction.mean[row],
        var=prediction.var[row],
        idx=prediction.idx,
        intervals=prediction.intervals.rows(row),
    )
    bare = scored(store, ds, split, plain, "bare")
    assert (named.comparison.alignment, bare.comparison.alignment) == ("by_name", "positional_unverified")
    assert read_json(Path("bare/config.json"))["alignment"] == "positional_unverified"
    pd.testing.assert_frame_equal(named.table, bare.table, atol=1e-6, rtol=1e-6)


def test_genes_and_rows_in_another_order_score_the_same(store, ds, split, prediction):
    rng = np.random.default_rng(0)
    g, r = rng.permutation(ds.n_genes), rng.permutation(len(prediction.idx))
    shuffled = RowPrediction(
        mean=prediction.mean[:, g],
        var=prediction.var[:, g],
        idx=prediction.idx[r],
        row=prediction.rows[r],
        genes=prediction.genes[g],
        row_id=prediction.row_id[r],
        intervals=replace(prediction.intervals, gene_bin=prediction.intervals.gene_bin[g]),
    )
    one, two = scored(store, ds, split, prediction), scored(store, ds, split, shuffled, "shuffled")
    assert two.comparison.alignment == "by_name"
    pd.testing.assert_frame_equal(one.table, two.table, atol=1e-12, rtol=1e-12)


def test_missing_variance_is_filled_and_marked(store, ds, split, prediction):
    np.savez("mean.npz", mean=prediction.mean[prediction.rows], idx=prediction.idx)
    scores = evaluate_file(store, ds, split, Path("mean.npz"), Path("out"))
    assert read_json(Path("out/calibration.json"))["variance"] == "filled constant"
    assert read_json(Path("out/config.json"))["var_filled"] is True
    full = scored(store, ds, split, prediction, "full")
    assert scores.metrics["delta"]["global"]["pearson"] == pytest.approx(
        full.metrics["delta"]["global"]["pearson"]
    )


def test_rows_that_were_not_asked_for_are_counted_and_ignored(store, ds, split, prediction):
    train = split.rows(ds, "train")[:5]
    more = RowPrediction(
        mean=np.concatenate([prediction.mean[prediction.rows], np.full((5, ds.n_genes), 99, np.float32)]),
        var=np.ones((len(prediction.idx) + 5, ds.n_genes), dtype=np.float32),
        idx=np.concatenate([prediction.idx, train]),
    )
    scores = scored(store, ds, split, more)
    assert scores.comparison.notes["rows_not_asked_for"] == 5
    assert np.abs(scores.comparison.predicted).max() < 99


def test_evaluation_that_fails_makes_no_folder(store, ds, split, prediction):
    with pytest.raises(PredictionError, match=r"lacks .* of .* test rows"):
        scored(store, ds, split, RowPrediction(prediction.mean[:0], prediction.var[:0], prediction.idx[:0]))
    assert not Path("out").exists()


def test_evaluation_does_not_write_into_a_run(store, ds, split, prediction):
    (run,) = run_entry(store, split.hash, entry())
    files = {p.name: p.read_bytes() for p in run.iterdir()}
    write_prediction(prediction, Path("p.npz"))
    with pytest.raises(StoreError, match="is a published run"):
        evaluate_file(store, ds, split, Path("p.npz"), run)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == files


# ---- data sets and suites ------------------------------------------------------------------------------------


def test_catalog_data_set_is_simulated_once_by_racing_processes(store, monkeypatch):
    made = DatasetEntry(
        name="tiny",
        description="x",
        source="synth",
        synth={"n_obs": 120, "n_genes": 10, "n_contexts": 2, "n_perts": 3},
    )
    told = []
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: ensure_dataset(store, made, told.append), range(2)))
    assert paths == [store.dataset("tiny")] * 2
    assert [line for line in told if not line.startswith("waiting for a lock")] == ["simulating tiny"]


def test_catalog_data_set_of_other_content_is_refused(store):
    synth = {"n_obs": 120, "n_genes": 10, "n_contexts": 2, "n_perts": 3}
    made = DatasetEntry(name="tiny", description="x", source="synth", synth=synth, content_sha256="0" * 64)
    with pytest.raises(
        DatasetError, match="the catalog states 000000000000; its splits and results do not hold"
    ):
        ensure_dataset(store, made)
    assert not store.dataset("tiny").exists()
    gone = DatasetEntry(name="gone", description="x", source="artifact", path="data/gone")
    with pytest.raises(DatasetError, match=r"'gone' is not at .*; import it with `perturbfm data import`"):
        ensure_dataset(store, gone)


def test_data_of_a_split_are_found_by_content_not_by_name(store, split):
    assert find_dataset(store, split) == store.dataset("small")
    store.dataset("small").rename(store.dataset("renamed"))
    assert find_dataset(store, split) == store.dataset("renamed")
    import_dataset(store, simulate(CONFIG.model_copy(update={"seed": 5}))[0])
    assert find_dataset(store, split) == store.dataset("renamed")
    shutil.rmtree(store.dataset("renamed"))
    assert find_dataset(store, split) is None
    with pytest.raises(DatasetError, match="is not at hand; give --data DIR"):
        run_entry(store, split.hash, entry())


def test_suite_freezes_what_is_missing_and_lists_its_cells(store, tmp_path, monkeypatch):
    folder = tmp_path / "catalog/datasets"
    folder.mkdir(parents=True)
    synth = {"n_obs": 160, "n_genes": 12, "n_contexts": 2, "n_perts": 4}
    made = {"name": "tiny", "description": "x", "source": "synth", "synth": synth}
    (folder / "tiny.yaml").write_text(json.dumps(made))
    suite = SuiteEntry(
        name="s",
        description="x",
        grid=({"dataset": "tiny", "splits": ({"kind": "leave_one_context_out"},)},),
        models=("additive", "ridge"),
    )
    monkeypatch.setattr(MODELS.get("ridge"), "requires", Requires(min_contexts=2))
    unmade = plan_suite(store, suite)
    assert (unmade.unmade, [c.reason for c in unmade.cells]) == (("tiny",), [None, None])
    made = plan_suite(store, suite, make=True)
    hashes = [split.hash for split in made.splits]
    assert len(hashes) == 2
    assert set(hashes) <= set(SplitFolder(store.split_dir).hashes())
    files = {p.name: p.stat().st_mtime_ns for p in store.split_dir.iterdir()}
    for again in (plan_suite(store, suite), plan_suite(store, suite, make=True)):
        assert (again.splits, again.cells) == (made.splits, made.cells)
    assert {p.name: p.stat().st_mtime_ns for p in store.split_dir.iterdir()} == files
    assert [(c.split.hash, c.entry) for c in made.cells] == [(h, m) for h in hashes for m in suite.models]
    assert [c.reason for c in made.cells] == [None, "needs 2 train contexts, there are 1"] * 2
    # What is not frozen yet is known as well, once the data are there.
    shutil.rmtree(store.split_dir)
    planned = plan_suite(store, suite)
    assert [(s.hash, s.is_frozen) for s in planned.splits] == [(h, False) for h in hashes]
    assert [c.reason for c in planned.cells] == [c.reason for c in made.cells]
    assert load_catalog().dataset("tiny").synth == synth


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


@pytest.mark.parametrize(
    ("asked", "given"), [("1", 1), ("99999", None), ("0", None), ("all", None), ("", None)]
)
def test_threads_are_no_more_than_cores_and_than_asked_for(asked, given, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    own = cores()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert cores() == (own if given is None else given)
