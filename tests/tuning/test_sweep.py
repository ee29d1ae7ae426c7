"""Sweeps: a declared grid, selected on validation; test scores of finalists only, and every reveal logged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.errors import ConfigError, ModelError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.io import write_features
from perturbfm_core.pipeline import metric_panel, prediction
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.run_record import read_run_record
from perturbfm_core.tuning import sweep
from perturbfm_core.tuning.sweep import ranking, run_sweep
from perturbfm_core.tuning.sweep_folder import SweepFolder
from perturbfm_core.tuning.sweep_grid import load_base, load_grid, sweep_cells
from perturbfm_core.tuning.validation import FoldScore, Validation
from tests.support.command import attempt, perturbfm
from tests.support.few_panels import brief
from tests.support.tuning_screen import forbidden_rows, poisoned

BASE = ModelEntry(name="mine", description="x", model="ridge")
GRID = [{"alphas": [[0.01], [1.0], [1000.0]], "control_components": [0, 2]}]


@pytest.fixture
def split(template):
    return template[1]["fold"]


@pytest.fixture(autouse=True)
def few_panels():
    with brief("delta"):
        yield


@pytest.fixture
def scored(monkeypatch):
    """Replace the fits on validation by a function of the parameters; returns the list of calls."""
    calls = []

    def score(self, params, fold):
        calls.append((params, fold))
        value = -abs(np.log10(params["alphas"][0]) - 0.5) / 10
        return FoldScore((value, value), (1.0, 1.0), 2, 0)

    monkeypatch.setattr(Validation, "score", score)
    return calls


def run(store, split, grid=GRID, base=BASE, **options):
    return run_sweep(store, split, base, sweep_cells(base, grid), **options)


# ---- the grid ------------------------------------------------------------------------------------------------


def test_cells_are_the_product_in_order_and_equal_ones_are_one():
    cells = sweep_cells(BASE, GRID)
    assert [c.values for c in cells] == [
        {"alphas": [a], "control_components": n} for a in (0.01, 1.0, 1000.0) for n in (0, 2)
    ]
    assert len({c.config_hash for c in cells}) == len({c.entry.name for c in cells}) == 6
    # 1 and 1.0, and the same configuration of two grids.
    assert len(sweep_cells(BASE, [{"alphas": [[1], [1.0]]}, {"alphas": [[1.0], [2.0]]}])) == 2
    # What is the base itself has its name.
    own = BASE.model_copy(update={"params": {"control_components": 2}})
    assert sweep_cells(own, [{"control_components": [2, 3]}])[0].entry.name == "mine"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([{"alpha": [[1.0]]}], "model 'ridge' has no parameter 'alpha'; it has: alphas, control_components"),
        ([{"alphas": [[-1.0]]}], "Input should be greater than 0"),
        ([{"control_components": list(range(1002))}], "more than 1000 configurations"),
    ],
)
def test_grids_that_make_no_configurations_are_refused(grid, message):
    with pytest.raises((ConfigError, ModelError), match=message):
        sweep_cells(BASE, grid)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alphas: 1.0", "parameter 'alphas' needs a list of values"),
        ("alphas: []", "parameter 'alphas' needs a list of values"),
        ("[]", "is no grid"),
        ("just text", "is no grid"),
        ("- [1, 2]", "is no grid"),
    ],
)
def test_files_that_are_no_grid_are_refused(tmp_path, text, message):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_grid(path)


def test_a_base_is_a_file_or_an_entry(tmp_path):
    assert load_base("ridge").model == "ridge"
    path = tmp_path / "mine.yaml"
    path.write_text("model: ridge\nparams: {control_components: 3}\n")
    assert (load_base(str(path)).name, load_base(str(path)).params) == ("mine", {"control_components": 3})
    path.write_text("name: ridge\nmodel: ridge\nparams: {control_components: 3}\n")
    with pytest.raises(
        ConfigError, match="names itself 'ridge', an entry of the catalog with other parameters"
    ):
        load_base(str(path))
    with pytest.raises(ConfigError, match="neither a file nor an entry of the catalog"):
        load_base("nothing.yaml")


# ---- selection -----------------------------------------------------------------------------------------------


def test_the_best_on_validation_are_revealed_and_logged_before_they_are_scored(
    store, split, scored, monkeypatch
):
    seen, plain = [], sweep.run_entry

    def spied(home, frozen, entry, **options):
        folder = SweepFolder(home, "s")
        seen.append((entry.name, [r.entry for r in folder.reveals()], [r.runs for r in folder.reveals()]))
        return plain(home, frozen, entry, **options)

    monkeypatch.setattr(sweep, "run_entry", spied)
    made = run(store, split, finalists=2, name="s")
    best, second = made.ranked[0].entry, made.ranked[1].entry
    # Ties of alpha: the first of the grid.
    assert [s.values["control_components"] for s in made.ranked[:2]] == [0, 2]
    assert seen[0] == (best, [best], [[]])
    assert seen[1][1] == [best, second]
    lines = [json.loads(line) for line in made.folder.log_file.read_text().splitlines()]
    assert [(line["event"], line["config_hash"]) for line in lines] == [
        (event, s.config_hash) for s in made.ranked[:2] for event in ("reveal", "scored")
    ]
    assert [(line["rank"], line["complete"]) for line in lines if line["event"] == "reveal"] == [
        (1, 6),
        (2, 6),
    ]
    assert sorted(p.name for ps in made.revealed.values() for p in ps) == [p.name for p in store.run_dirs()]
    assert {read_run_record(p).entry for p in store.run_dirs()} == {best, second}


def test_a_repeated_sweep_scores_and_reveals_nothing_again(store, split, scored):
    first = run(store, split, finalists=1, name="s")
    log, n = first.folder.log_file.read_text(), len(scored)
    again = run(store, split, finalists=1, name="s")
    assert (len(scored), again.folder.log_file.read_text()) == (n, log)
    # More finalists add to the log; what is in it stays.
    more = run(store, split, finalists=2, name="s")
    assert len(scored) == n
    assert more.folder.log_file.read_text().startswith(log)
    assert len(more.folder.reveals()) == 2
    # So does a larger grid: only what is new is fitted.
    larger = [*GRID, {"alphas": [[3.0]], "control_components": [0]}]
    wider = run(store, split, larger, finalists=1, name="s")
    assert len(scored) == n + 1
    assert wider.ranked[0].values == {"alphas": [3.0], "control_components": 0}
    assert [r.rank for r in wider.folder.reveals()] == [1, 2, 1]


def test_an_interrupted_sweep_loses_the_current_configuration_only(store, split, scored, monkeypatch):
    plain = Validation.score

    def stops(self, params, fold):
        if len(scored) == 3:
            raise KeyboardInterrupt
        return plain(self, params, fold)

    monkeypatch.setattr(Validation, "score", stops)
    with pytest.raises(KeyboardInterrupt):
        run(store, split, name="s")
    folder = SweepFolder(store, "s")
    assert sum(c.value is not None for c in folder.cells()) == 3
    assert folder.reveals() == []
    assert store.run_dirs() == []
    monkeypatch.setattr(Validation, "score", plain)
    assert len(run(store, split, name="s").ranked) == 6
    assert len(scored) == 6


def test_a_half_written_line_of_the_log_is_passed_over(store, split, scored):
    made = run(store, split, name="s")
    with made.folder.log_file.open("a") as handle:
        handle.write('{"time": "2026')
    more = run(store, split, name="s", finalists=2)
    assert len(more.folder.reveals()) == 2
    assert made.folder.log_file.read_text().count("\n") == 5


def test_a_configuration_that_fails_is_kept_with_its_reason_and_tried_again(
    store, split, scored, monkeypatch
):
    plain = Validation.score

    def fails(self, params, fold):
        if params["alphas"][0] == 1.0:
            message = "not today"
            raise ModelError(message)
        return plain(self, params, fold)

    monkeypatch.setattr(Validation, "score", fails)
    made = run(store, split, name="s")
    assert {c.reason for c in made.folder.cells()} == {None, "not today"}
    assert len(made.ranked) == 4
    monkeypatch.setattr(Validation, "score", plain)
    assert len(run(store, split, name="s").ranked) == 6


@pytest.mark.parametrize("error", [np.linalg.LinAlgError("Singular matrix"), MemoryError()])
def test_a_fit_that_breaks_down_stops_no_other_configuration(store, split, scored, monkeypatch, error):
    plain = Validation.score

    def fails(self, params, fold):
        if params["alphas"][0] == 1.0:
            raise error
        return plain(self, params, fold)

    monkeypatch.setattr(Validation, "score", fails)
    made = run(store, split, name="s", finalists=0)
    assert {c.reason for c in made.folder.cells()} == {None, str(error) or "MemoryError"}
    assert len(made.ranked) == 4


def test_configurations_whose_features_have_changed_are_scored_again(store, split, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        Validation, "score", lambda *a: calls.append(a[1]) or FoldScore((0.1, 0.1), (1.0, 1.0), 2, 0)
    )
    path = tmp_path / "own.npz"
    base = ModelEntry(name="mine", description="x", model="knn")
    grid = [{"gene_features": [["coexpression"], [str(path)]]}]

    def again(matrix):
        write_features(GeneFeatures("own", np.asarray(["A", "B", "C"]), matrix), path)
        calls.clear()
        run(store, split, grid, base, name="s", finalists=0)
        return [c["gene_features"] for c in calls]

    assert len(again(np.eye(3, dtype=np.float32))) == 2
    assert again(np.eye(3, dtype=np.float32)) == []
    assert again(2 * np.eye(3, dtype=np.float32)) == [[str(path)]]


@pytest.mark.parametrize(
    ("change", "what"),
    [({"seed": 1}, "seed"), ({"base": BASE.model_copy(update={"name": "other"})}, "entry")],
)
def test_a_sweep_refuses_other_inputs_than_it_was_made_with(store, split, scored, change, what):
    run(store, split, name="s", finalists=0)
    with pytest.raises(ConfigError, match=f"sweep 's' was made with other {what}; "):
        run(store, split, name="s", finalists=0, **change)


# ---- what is never read ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fold", "inner_cv"])
def test_no_test_row_is_read_before_a_reveal(store, template, policy, monkeypatch):
    """A spy fails whatever predicts or compares test conditions; values are those without any true test row."""
    frozen = SplitFolder(store.split_dir).load(template[1][policy])
    ds = open_dataset(store.dataset("small"))

    def forbidden(*_args, **_options):
        pytest.fail("test rows were read")

    with monkeypatch.context() as patch:
        for module, name in (
            (prediction, "query_of_test"),
            (prediction, "predict_rows"),
            (metric_panel, "compare"),
            (metric_panel, "observed"),
            (sweep, "run_entry"),
        ):
            patch.setattr(module, name, forbidden)
        clean = run(store, frozen.hash, finalists=0, name="clean")
        patch.setattr(type(frozen), "check_dataset", lambda self, other: None)
        patch.setattr(sweep, "require_clean", lambda *_: None)
        patch.setattr(sweep, "dataset_of", lambda *_: poisoned(ds, forbidden_rows(ds, frozen)))
        blind = run(store, frozen.hash, finalists=0, name="blind")
    assert [(s.config_hash, s.value) for s in blind.ranked] == [
        (s.config_hash, s.value) for s in clean.ranked
    ]
    assert len({s.value for s in clean.ranked}) > 1
    assert not clean.folder.log_file.exists()
    assert store.run_dirs() == []


def test_the_values_are_those_of_the_validation(store, split):
    made = run(store, split, finalists=0)
    frozen = SplitFolder(store.split_dir).load(split)
    validation = Validation(store, open_dataset(store.dataset("small")), frozen, BASE, 0)
    for score in ranking(made.folder):
        own = validation.score({**BASE.params, **score.values}, 0)
        assert score.scores == (own,)
    assert made.folder.name.startswith(f"mine.{split[:7]}.")


# ---- command line ----------------------------------------------------------------------------------------------


def test_a_sweep_from_the_command_line(store, split, tmp_path):
    Path("base.yaml").write_text(yaml.safe_dump({"name": "mine", "model": "ridge"}))
    Path("grid.yaml").write_text(yaml.safe_dump(GRID[0]))
    words = ("sweep", "run", "--base", "base.yaml", "--grid", "grid.yaml", "--split", split, "--name", "s")
    found = perturbfm(*words, "--json").json
    assert (found["cells"], found["complete"], found["revealed"]) == (6, 6, 1)
    tested = [row for row in found["rows"] if row["test delta.pearson_centered"] is not None]
    assert [row["rank"] for row in tested] == [1]
    (run_dir,) = store.run_dirs()
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert tested[0]["test delta.pearson_centered"] == metrics["delta"]["global"]["pearson_centered"]
    shown = perturbfm("sweep", "show", "s")
    assert "test scores revealed:" in shown.out
    assert shown.values["log"].endswith("reveals.jsonl")
    (row,) = perturbfm("sweep", "show", "--json").json
    assert (row["sweep"], row["cells"], row["revealed"]) == ("s", 6, 1)
    answer = attempt("sweep", "show", "nope")
    assert (answer.code, answer.err) == (2, "error: there is no sweep 'nope'; sweeps: s\n")
