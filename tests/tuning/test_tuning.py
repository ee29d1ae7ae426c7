"""Searching hyperparameters: what is scored, what is never read, what a study keeps."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.storages._rdb import storage as optuna_storage

from perturbfm_core.catalog.entries import ModelEntry, SplitSpec, Tuned
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.errors import ConfigError, ModelError, SplitError, StoreError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.io import write_features
from perturbfm_core.models.base import MODELS, new_model
from perturbfm_core.models.baselines.latent import LatentShift
from perturbfm_core.models.baselines.linear import Linear
from perturbfm_core.models.search import Choice, FloatRange, IntRange
from perturbfm_core.pipeline.dataset import import_dataset, open_dataset
from perturbfm_core.pipeline.experiment import model_configs
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import train_view
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.tuning import search
from perturbfm_core.tuning.record import check_registration, register
from perturbfm_core.tuning.search import tune
from perturbfm_core.tuning.validation import FoldScore, Validation, value_of
from tests.support.factories import grid_rows, screen, with_values
from tests.support.paths import REPO

PERTS, CONTEXTS, GENES = (
    ["A", "B", "C", "D", "A+B"],
    ["c0", "c1", "c2", "c3", "c4"],
    ["A", "B", "C", "D", "e", "f"],
)
FOLD = SplitSpec(
    kind="context_ood", params={"holdout": ["c0"]}, validation="fold", calibration="none", val_frac=0.5
)
INNER = SplitSpec(kind="context_ood", params={"holdout": ["c0"]}, validation="inner_cv", calibration="none")


def small_screen():
    """Return a screen with an effect per perturbation and context that regressions find."""
    rng = np.random.default_rng(1)
    rows = grid_rows(PERTS, CONTEXTS, reps=3, controls=100)
    effect = {p: rng.normal(size=len(GENES)) for p in PERTS[:4]}
    effect |= {"A+B": effect["A"] + effect["B"], "control": np.zeros(len(GENES))}
    level = {c: rng.normal(3, 0.5, size=len(GENES)) for c in CONTEXTS}
    scale = dict(zip(CONTEXTS, (1.0, 0.5, 1.5, 1.0, 0.8), strict=True))
    X = [level[c] + scale[c] * effect[p] + rng.normal(scale=0.4, size=len(GENES)) for p, c in rows]
    return screen(rows, X=np.asarray(X), genes=GENES, name="small")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make a store with one data set and two splits, once."""
    path = tmp_path_factory.mktemp("store")
    store = ArtifactStore(path, path / "splits")
    import_dataset(store, small_screen(), storage="npz")
    ds = open_dataset(store.dataset("small"))
    hashes = {}
    for spec in (FOLD, INNER):
        ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
        hashes[spec.validation] = split.hash
    return path, hashes


@pytest.fixture
def store(template, own_home) -> ArtifactStore:
    """Return a private copy of that store, where the environment says it is."""
    shutil.copytree(template[0], own_home)
    shutil.copytree(own_home / "splits", own_home.parent / "splits")
    return ArtifactStore()


@pytest.fixture
def ds(store):
    return open_dataset(store.dataset("small"))


@pytest.fixture
def splits(template, store):
    return {policy: SplitFolder(store.split_dir).load(h) for policy, h in template[1].items()}


def entry(model="linear", **fields) -> ModelEntry:
    return ModelEntry(**{"name": model, "description": "x", "model": model, **fields})


def run(store, split, model="linear", **options):
    return tune(store, split.hash, entry(model), **{"trials": 3, **options})


def untimed(study):
    """Return all that must not depend on time: number, state, value and parameters of the trials."""
    return [(t.number, t.state, t.value, t.mse, t.params) for t in study.trials]


def params_and_values(study):
    return [(t.value, t.params) for t in study.trials]


@pytest.fixture
def pages() -> None:
    """Ask for real pages, which take longer than a search here."""


@pytest.fixture(autouse=True)
def quick_pages(request, monkeypatch) -> None:
    """Write an empty page where no test looks at it."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr(search, "study_page", lambda study: "")


@pytest.fixture(scope="module", autouse=True)
def migrations_read_once():
    """Read optuna's migrations once: they are files of the package, which it reads whenever a study is opened."""
    read = []
    plain = optuna_storage._VersionManager._create_alembic_script

    def once(self):
        if not read:
            read.append(plain(self))
        return read[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna_storage._VersionManager, "_create_alembic_script", once)
        yield


@pytest.fixture
def scored(monkeypatch):
    """Replace the fits by a function of (parameters, fold); returns the list of calls, to be changed by `by`."""

    class Scored:
        by = staticmethod(lambda params, fold: params.get("penalty", 0.1))

        def __init__(self) -> None:
            self.calls = []

        def score(self, params, fold):
            self.calls.append((params, fold))
            value = self.by(params, fold)
            return FoldScore((value, value), (1.0, 1.0), 2, 0)

    made = Scored()
    monkeypatch.setattr(Validation, "score", lambda self, params, fold: made.score(params, fold))
    return made


# ---- what is scored ------------------------------------------------------------------------------------------


def by_hand(fit, held, prediction):
    """Return (per condition: centred Pearson, mean squared error), a loop over rows."""
    center = fit.delta.astype(float).mean(axis=0)
    pearson = [np.corrcoef(p - center, y - center)[0, 1] for p, y in zip(prediction, held.delta, strict=True)]
    return np.asarray(pearson), ((prediction - held.delta) ** 2).mean(axis=1)


def test_a_configuration_is_fitted_on_train_and_scored_on_the_validation_fold(store, ds, splits):
    split = splits["fold"]
    view = train_view(ds, split)
    held = view.validation
    contexts = held.conditions["context_id"].astype(str)
    # Two contexts of different size, so that units and conditions weigh differently.
    assert sorted(contexts.value_counts()) == [5, 5]
    model = new_model("linear", {"components": 3})
    model.fit(view, 4)
    pearson, mse = by_hand(view, held, model.predict(held.query()).mean)
    validation = Validation(store, ds, split, entry(), seed=4)
    assert len(validation) == 1
    score = validation.score({"components": 3}, 0)
    units = sorted(set(contexts))
    assert score.pearson == pytest.approx([pearson[contexts == u].mean() for u in units], abs=1e-6)
    assert score.mse == pytest.approx([mse[contexts == u].mean() for u in units], abs=1e-6)
    assert (score.conditions, score.undefined) == (10, 0)


def test_units_weigh_the_same_whatever_their_size():
    # One unit of three conditions and one of one: means .2 and .8, whose mean is .5; over conditions it is .35.
    from perturbfm_core.tuning.validation import _by_unit

    assert _by_unit(np.asarray([0.1, 0.2, 0.3, 0.8]), np.asarray([0, 0, 0, 1])) == pytest.approx((0.2, 0.8))
    folds = [FoldScore((0.2, 0.8), (1.0, 1.0), 4, 0), FoldScore((0.1,), (1.0,), 1, 0)]
    assert value_of(folds) == pytest.approx(0.3)


def test_inner_folds_are_fitted_again_without_what_they_hold_out(store, ds, splits):
    split = splits["inner_cv"]
    view = train_view(ds, split)
    validation = Validation(store, ds, split, entry(), seed=0)
    assert len(validation) == len(view.inner) == 4
    for fold, (fit, held) in enumerate(view.inner):
        part = view.subset(held)
        model = new_model("linear", {"components": 2})
        model.fit(view.subset(fit), 0)
        pearson, mse = by_hand(view.subset(fit), part, model.predict(part.query()).mean)
        score = validation.score({"components": 2}, fold)
        # A fold holds out one context.
        assert part.conditions["context_id"].nunique() == 1
        assert score.pearson == pytest.approx([pearson.mean()], abs=1e-6)
        assert score.mse == pytest.approx([mse.mean()], abs=1e-6)


def test_predicting_the_train_mean_scores_0(store, ds, splits):
    score = Validation(store, ds, splits["fold"], entry("global_mean"), 0).score({}, 0)
    assert score.pearson == (0.0, 0.0)
    assert (score.conditions, score.undefined) == (10, 10)
    assert min(score.mse) > 0


def test_the_seed_reaches_the_fit(store, ds, splits, monkeypatch):
    seen = []
    plain = Linear._fit
    monkeypatch.setattr(Linear, "_fit", lambda self, view, seed: (seen.append(seed), plain(self, view, seed)))
    Validation(store, ds, splits["fold"], entry(), 11).score({}, 0)
    assert set(seen) == {11}


# ---- what is never read --------------------------------------------------------------------------------------


def poisoned(ds, rows):
    """Return the data set with other values in some rows."""
    X = np.asarray(
        ds.values.expression.toarray() if hasattr(ds.values.expression, "toarray") else ds.values.expression
    )
    X = X.copy()
    X[rows] = np.random.default_rng(9).uniform(50, 90, size=(len(rows), X.shape[1]))
    return with_values(ds, X)


def forbidden_rows(ds, split):
    """Return test rows, all controls of test contexts, and every reference control."""
    test = split.rows(ds, "test")
    contexts = set(ds.obs["context_id"].astype(str).iloc[test])
    hidden = np.asarray(ds.obs["context_id"].astype(str).isin(contexts)) & ds.is_control
    hidden |= ds.controls.has_role("reference") & ~ds.controls.has_role("input")
    return np.union1d(test, np.flatnonzero(hidden))


@pytest.mark.parametrize("policy", ["fold", "inner_cv"])
def test_no_test_row_and_no_reference_control_is_read(store, ds, splits, policy, monkeypatch):
    """Values of a whole search are the same when all that it must not read is replaced by nonsense."""
    split = splits[policy]
    rows = forbidden_rows(ds, split)
    assert len(rows) > len(split.rows(ds, "test")) + 200
    clean = run(store, split, trials=4, name="clean").study
    monkeypatch.setattr(FrozenSplit, "check_dataset", lambda self, other: None)
    monkeypatch.setattr(search, "require_clean", lambda *_: None)

    def again(name, changed):
        monkeypatch.setattr(search, "dataset_of", lambda *_: poisoned(ds, changed))
        # The nonsense is noticed otherwise: the content is verified before anything is fitted.
        return run(store, split, trials=4, name=name).study

    assert untimed(again("poisoned", rows)) == untimed(clean)
    # What is read does change the values: the comparison can fail.
    for name, readable in (("train", split.rows(ds, "train")[:3]), ("val", split.rows(ds, "val")[:3])):
        if len(readable):
            assert untimed(again(name, readable)) != untimed(clean)


def test_validation_is_held_out_where_entries_fit_on_it(store, ds):
    spec = FOLD.model_copy(update={"fit_rows": "train+val"})
    ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
    (part,) = Validation(store, ds, split, entry(), 0).parts
    table = split.definition.folds.table
    assert set(part.fit.conditions.index) == set(table["train"])
    assert set(part.held.conditions.index) == set(table["val"])


def test_a_split_without_validation_is_refused(store, ds):
    spec = FOLD.model_copy(update={"validation": "none"})
    ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
    with pytest.raises(
        SplitError, match=r"has no validation to select on; freeze one with .*--validation fold"
    ):
        run(store, split)


# ---- the search ----------------------------------------------------------------------------------------------


def test_the_best_trial_is_selected(store, splits, scored):
    study = run(store, splits["fold"], trials=6).study
    values = [t.value for t in study.trials]
    assert values == [t.params["penalty"] for t in study.trials]
    assert study.selected.value == max(values)
    assert study.gain == pytest.approx(max(values) - 0.1)
    assert study.gain_se == pytest.approx(0.0)
    assert (study.own.value, study.own_is_best) == (0.1, False)
    assert (study.conditions, study.units, study.folds) == (2, 2, 1)
    # One fit of the entry itself and one per trial.
    assert len(scored.calls) == 7
    assert scored.calls[0] == ({}, 0)


def test_the_entry_stays_unless_a_trial_is_better(store, splits, scored, pages):
    scored.by = lambda params, fold: 0.25
    made = run(store, splits["fold"])
    assert made.study.own_is_best
    assert (made.study.selected.value, made.study.gain) == (0.25, 0.0)
    assert made.entry.params == {}
    assert "its own parameters stay" in made.page.read_text()


def test_gain_is_paired_over_units(store, splits, monkeypatch):
    # Own (.1, .5, .3) against (.3, .6, .6): differences .2, .1, .3 have mean .2 and standard error .1/sqrt(3).
    def score(self, params, fold):
        values = (0.3, 0.6, 0.6) if "penalty" in params else (0.1, 0.5, 0.3)
        return FoldScore(values, values, 3, 0)

    monkeypatch.setattr(Validation, "score", score)
    study = run(store, splits["fold"], trials=1).study
    assert study.gain == pytest.approx(0.2)
    assert study.gain_se == pytest.approx(0.1 / np.sqrt(3))
    assert study.selected.mse == pytest.approx(0.5)


def test_the_same_seed_searches_the_same(store, splits):
    one, two, other = (
        run(store, splits["fold"], trials=4, name=f"s{i}", seed=i // 2).study for i in range(3)
    )
    assert untimed(one) == untimed(two)
    assert [t.params for t in one.trials] != [t.params for t in other.trials]
    # The random draws of different trials differ.
    assert len({str(t.params) for t in one.trials}) == 4


def test_values_are_those_of_the_written_parameters(store, ds, splits):
    made = run(store, splits["fold"], trials=3)
    validation = Validation(store, ds, splits["fold"], entry(), 0)
    for trial in made.study.trials:
        assert trial.params["penalty"] == float(f"{trial.params['penalty']:.4g}")
        assert value_of([validation.score(trial.params, 0)]) == trial.value
    assert made.entry.params in [made.study.selected.params, {}]


def test_parameters_that_are_lists_get_a_list_of_one(store, splits, scored):
    scored.by = lambda params, fold: params.get("alphas", [0.0])[0]
    made = run(store, splits["fold"], "ridge")
    (alpha,) = made.entry.params["alphas"]
    assert made.study.selected.value == alpha == max(t.params["alphas"][0] for t in made.study.trials)
    assert made.study.own.params["alphas"] == [0.1, 1.0, 10.0, 100.0]


def test_fixed_parameters_are_not_searched(store, splits, scored):
    made = tune(store, splits["fold"].hash, entry(params={"components": 4}), fixed=["components"], trials=2)
    assert all(set(t.params) == {"penalty"} for t in made.study.trials)
    assert all(params["components"] == 4 for params, _ in scored.calls)
    with pytest.raises(ModelError, match=r"all that 'linear' searches is fixed \(components, penalty\)"):
        tune(store, splits["fold"].hash, entry(), fixed=["components", "penalty"])


def test_the_same_configuration_is_fitted_once(store, splits, scored, monkeypatch):
    monkeypatch.setattr(LatentShift, "search_space", {"components": IntRange(30, 31)})
    scored.by = lambda params, fold: float(params.get("components", 30))
    study = run(store, splits["fold"], "latent_shift", trials=8).study
    # 30 is the entry's own; 31 is fitted once.
    assert [p.get("components") for p, _ in scored.calls] == [None, 31]
    assert [t.value for t in study.trials] == [float(t.params["components"]) for t in study.trials]


def test_a_trial_that_cannot_be_fitted_is_kept_with_its_reason(store, splits, scored):
    def by(params, fold):
        if "penalty" in params and params["penalty"] < 1:
            msg = "not\nfinite"
            raise ModelError(msg)
        return params.get("penalty", 0.0)

    scored.by = by
    study = run(store, splits["fold"], trials=8).study
    failed = [t for t in study.trials if t.state == "failed"]
    assert len(study.trials) == 8
    assert 0 < len(failed) < 8
    assert {(t.value, t.reason, t.params["penalty"] < 1) for t in failed} == {(None, "not finite", True)}
    assert study.selected.value >= 1
    assert len(run(store, splits["fold"], trials=8).study.trials) == 8


def test_an_entry_that_cannot_be_fitted_ends_the_search(store, splits, scored):
    def by(params, fold):
        msg = "the entry is wrong"
        raise ModelError(msg)

    scored.by = by
    with pytest.raises(ModelError, match="the entry is wrong"):
        run(store, splits["fold"])


def test_trials_below_the_median_are_pruned_between_folds_only(store, splits, scored):
    # After five whole trials, what is below their median at a fold is left there.
    scored.by = lambda params, fold: params.get("penalty", 0.0)
    study = run(store, splits["inner_cv"], trials=12).study
    pruned = [t for t in study.trials if t.state == "pruned"]
    assert pruned
    assert min(t.number for t in pruned) >= 5
    assert {t.value for t in pruned} == {None}
    assert len(scored.calls) == 4 + 4 * study.count("complete") + len(pruned)
    assert run(store, splits["fold"], trials=12, name="one").study.count("pruned") == 0


def test_a_timeout_ends_the_search_and_its_finished_trials_are_shown(
    store, splits, scored, pages, monkeypatch
):
    made = run(store, splits["fold"], timeout=0)
    assert (made.study.trials, made.study.own_is_best) == ((), True)
    assert "No trial is complete" in made.page.read_text()
    # Every fit takes a second: the entry's own and three trials fit into four, and the fourth begins in time.
    clock = SimpleNamespace(monotonic=lambda: float(len(scored.calls)), perf_counter=time.perf_counter)
    scored.calls.clear()
    monkeypatch.setattr(search, "time", clock)
    assert len(run(store, splits["fold"], trials=9, timeout=4.5, name="some").study.trials) == 4


def test_progress_counts_trials_and_names_the_best(store, splits, scored):
    texts = []
    run(store, splits["fold"], trials=2, progress=texts.append)
    assert texts[:2] == ["scoring linear as it is", "trial 1 of 2, best 0.1000"]
    assert texts.count("done:") == 2
    again = []
    run(store, splits["fold"], trials=3, progress=again.append)
    # A study that goes on begins where it was.
    assert again[:2] == ["done:", "done:"]
    assert again[2].startswith("trial 3 of 3, best ")


# ---- going on ------------------------------------------------------------------------------------------------


def test_a_resumed_study_equals_one_that_never_stopped(store, splits):
    # From the eleventh trial on, the sampler learns from the earlier ones.
    whole = run(store, splits["fold"], trials=12, name="whole").study
    for trials in (5, 12):
        part = run(store, splits["fold"], trials=trials, name="part").study
        assert len(part.trials) == trials
    assert untimed(part) == untimed(whole)
    fewer = run(store, splits["fold"], trials=5, name="part").study
    assert untimed(fewer) == untimed(whole)


def test_an_interrupted_search_loses_the_current_trial_only(store, splits, scored, monkeypatch):
    plain, calls = scored.by, scored.calls

    def by(params, fold):
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(params, fold)

    scored.by = by
    with pytest.raises(KeyboardInterrupt):
        run(store, splits["fold"], trials=5, name="part")
    scored.by = plain
    part = run(store, splits["fold"], trials=5, name="part").study
    whole = run(store, splits["fold"], trials=5, name="whole").study
    assert params_and_values(part) == params_and_values(whole)
    assert [t.number for t in part.trials] == [0, 1, 3, 4, 5]
    # Else the sampler would keep away from what was cut off, as if it were still being tried.
    kept = optuna.load_study(study_name="part", storage=f"sqlite:///{store.study('part')}").trials
    assert [t.number for t in kept if not t.state.is_finished()] == []


def test_a_killed_search_is_resumed(store, splits):
    program = """
        import os, signal, sys
        from perturbfm_core.tuning.search import tune
        from perturbfm_core.catalog.entries import ModelEntry
        from perturbfm_core.store.artifacts import ArtifactStore
        from perturbfm_core.tuning.validation import Validation
        plain, calls = Validation.score, []
        def score(self, params, fold):
            calls.append(fold)
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, params, fold)
        Validation.score = score
        entry = ModelEntry(name="linear", description="x", model="linear")
        tune(ArtifactStore(), sys.argv[1], entry, trials=4, name="part")
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), splits["fold"].hash],
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    part = run(store, splits["fold"], trials=4, name="part").study
    whole = run(store, splits["fold"], trials=4, name="whole").study
    assert params_and_values(part) == params_and_values(whole)
    assert [t.number for t in part.trials] == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "seed"),
        ({"split": "inner_cv"}, "split"),
        ({"params": {"components": 3}}, "parameters"),
        ({"model": "ridge"}, "code, entry, model, parameters, search space"),
        ({"fixed": ["penalty"]}, "search space"),
    ],
)
def test_a_study_refuses_other_inputs_than_it_was_made_with(store, splits, scored, change, what):
    def search_mine(split="fold", model="linear", params=None, **options):
        chosen = entry(model, params=params or {})
        return tune(store, splits[split].hash, chosen, **{"trials": 1, "name": "mine", **options})

    search_mine()
    with pytest.raises(ConfigError, match=f"study 'mine' was made with other {what}; .*another --study NAME"):
        search_mine(**change)


def test_a_study_refuses_features_that_have_changed(store, splits, scored, tmp_path):
    path = tmp_path / "own.npz"

    def search_mine(matrix):
        write_features(GeneFeatures("own", np.asarray(["A", "B", "C"]), matrix), path)
        chosen = entry("knn", params={"gene_features": [str(path)]})
        return tune(store, splits["fold"].hash, chosen, trials=1, name="mine")

    search_mine(np.eye(3, dtype=np.float32))
    search_mine(np.eye(3, dtype=np.float32))
    with pytest.raises(ConfigError, match="study 'mine' was made with other side information; "):
        search_mine(2 * np.eye(3, dtype=np.float32))


def test_without_a_name_other_inputs_or_code_have_another_study(store, splits, scored, monkeypatch):
    first = run(store, splits["fold"], trials=1).study.name
    assert first.startswith(f"linear.{splits['fold'].hash[:7]}.")
    assert run(store, splits["fold"], trials=1).study.name == first
    names = {first, run(store, splits["fold"], trials=1, seed=1).study.name}
    # Values of other code do not compare.
    monkeypatch.setattr(search, "code_of", lambda *_: SimpleNamespace(digest="changed"))
    assert len(names | {run(store, splits["fold"], trials=1).study.name}) == 3


def test_one_process_at_a_time_runs_a_study(store, splits, scored):
    run(store, splits["fold"], name="mine")
    with store.lock("study-mine", wait=False) as held:
        assert held
        with pytest.raises(StoreError, match="study 'mine' is being run by another process"):
            run(store, splits["fold"], name="mine")


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b""])
def test_a_damaged_study_is_refused_with_a_remedy(store, splits, scored, content):
    path = run(store, splits["fold"], name="mine").database
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"mine\.db is not a study that can be read .*another --study NAME"):
        run(store, splits["fold"], name="mine")


def test_a_study_is_an_sqlite_file_that_optuna_opens(store, splits, scored):
    made = run(store, splits["fold"], trials=3, name="mine")
    assert made.database == store.runs / ".studies/mine.db"
    assert made.page == store.runs / "study_mine.html"
    study = optuna.load_study(study_name="mine", storage=f"sqlite:///{made.database}")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [t.value for t in study.trials] == [t.value for t in made.study.trials]
    assert study.best_value == made.study.selected.value
    assert not list(store.staging_root.iterdir())


def test_a_study_can_lie_under_any_path(splits, scored, tmp_path, monkeypatch, store):
    home = tmp_path / "a {b} ?c#d%20"
    shutil.copytree(store.home, home)
    assert run(ArtifactStore(home), splits["fold"], trials=1).database.parent == home / "runs/.studies"


def test_optuna_is_silent(store, splits, scored, caplog, capfd):
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.DEBUG):
            run(store, splits["inner_cv"], trials=12)
    finally:
        optuna.logging.disable_propagation()
    assert [r for r in caplog.records if r.name.startswith("optuna")] == []
    assert capfd.readouterr() == ("", "")


# ---- several at once -----------------------------------------------------------------------------------------


def test_more_jobs_than_training_slots_are_refused(store, splits):
    with pytest.raises(
        ConfigError, match=r"--jobs 2 needs as many training slots, there are 1; set PERTURBFM_MAX_TRAIN=2"
    ):
        run(store, splits["fold"], jobs=2)


def test_several_workers_give_the_scores_of_one_process(store, ds, splits, monkeypatch):
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", "2")
    study = run(store, splits["inner_cv"], trials=3, jobs=2).study
    validation = Validation(store, ds, splits["inner_cv"], entry(), 0)

    def value(params):
        return value_of([validation.score(params, fold) for fold in range(4)])

    assert study.own.value == pytest.approx(value({}), abs=1e-12)
    assert [t.value for t in study.trials] == pytest.approx(
        [value(t.params) for t in study.trials], abs=1e-12
    )
    assert len({str(t.params) for t in study.trials}) == 3


# ---- what cannot be searched ---------------------------------------------------------------------------------


def test_a_model_without_a_search_space_is_refused(store, splits):
    with pytest.raises(ModelError, match=r"'control_only' has nothing to search .* declare it: .*ridge"):
        run(store, splits["fold"], "control_only")


def test_an_entry_that_cannot_run_on_the_split_is_refused(store, ds):
    spec = SplitSpec(kind="combo_ood", params={"holdout": ["A+B"]}, validation="none", calibration="none")
    ((split, _, _),) = freeze_split(store, ds, spec, bounds=False)
    with pytest.raises(SplitError, match=r"not applicable to split .*: it needs combinations in train"):
        run(store, split, "combo_kernel_ridge")


def test_a_study_name_must_be_a_key(store, splits):
    with pytest.raises(ConfigError, match=r"study name '\.\./x' cannot be a key"):
        run(store, splits["fold"], name="../x")


# ---- registering ---------------------------------------------------------------------------------------------


def test_the_selected_parameters_become_an_entry_that_names_its_study(store, ds, splits, scored):
    given = entry("ridge", uncertainty={"ensemble": 2}, seeds=(3, 4), params={"control_components": 5})
    made = tune(store, splits["fold"].hash, given, fixed=["control_components"], trials=3, name="mine")
    path = register(made, "best")
    found = load_catalog().model("best")
    assert path.is_file()
    assert (found.model, found.seeds, found.uncertainty) == ("ridge", (3, 4), {"ensemble": 2})
    assert found.params == {"control_components": 5} | (
        {} if made.study.own_is_best else made.study.selected.params
    )
    assert found.tuned == Tuned(
        study="mine",
        split=splits["fold"].hash,
        data_content_sha256=ds.content_sha256,
        trial=None if made.study.own_is_best else made.study.selected.number,
        trials=3,
        value=made.study.selected.value,
    )
    # A later state of the study may take its place.
    assert register(made, "best") == path


def test_the_study_of_the_parameters_is_no_part_of_the_config_hash():
    tuned = Tuned(study="s", split="a" * 64, data_content_sha256="b" * 64, trial=1, trials=2, value=0.5)
    (plain,), (other,) = model_configs(entry()), model_configs(entry(tuned=tuned))
    assert other.tuned == tuned
    assert (plain.config_hash, plain.entry_hash) == (other.config_hash, other.entry_hash)


def test_hand_made_entries_are_not_replaced(own_home):
    with pytest.raises(ConfigError, match="already has an entry 'additive', which is not from a study"):
        check_registration("additive")
    folder = own_home.parent / "catalog/models"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("{name: mine, description: x, model: linear}")
    with pytest.raises(ConfigError, match="already has an entry 'mine', which is not from a study"):
        check_registration("mine")
    with pytest.raises(ConfigError, match="entry name 'A B' cannot be a key"):
        check_registration("A B")


def test_a_run_on_another_split_than_the_parameters_were_selected_on_is_flagged(store, ds, splits):
    made = run(store, splits["fold"], trials=1)
    register(made, "best")
    pages = {}
    for policy, split in splits.items():
        (folder,) = run_entry(store, split.hash, load_catalog().model("best"))
        pages[policy] = (folder / "report.html").read_text()
    flag = "the parameters were selected on the validation of another split of this data"
    assert [flag in pages[policy] for policy in ("fold", "inner_cv")] == [False, True]
    assert all(f"of study {made.study.name}, 1 trials" in page for page in pages.values())


# ---- ranges --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        lambda: FloatRange(1.0, 1.0),
        lambda: FloatRange(0.0, 1.0),
        lambda: IntRange(0, 3, log=True),
        lambda: IntRange(3, 2),
        lambda: Choice(("a",)),
        lambda: Choice(("a", "a")),
    ],
    ids=["empty", "log of 0", "int log of 0", "upside down", "one", "one twice"],
)
def test_a_range_without_room_to_search_is_refused(made):
    with pytest.raises(ModelError, match=r"no range to search|nothing to choose"):
        made()


def scalars(value):
    return list(value) if isinstance(value, tuple | list) else [value]


@pytest.mark.parametrize("name", [n for n, kind in MODELS.items() if kind.search_space])
def test_declared_ranges_are_of_parameters_and_hold_the_defaults(name):
    kind = MODELS.get(name)
    defaults = kind.Params().model_dump()
    assert set(kind.search_space) <= set(defaults)
    assert set(new_model(name).searchable()) <= set(kind.search_space)
    for parameter, dimension in kind.search_space.items():
        if isinstance(dimension, Choice):
            ends = dimension.values
            assert defaults[parameter] in ends
        else:
            ends = (dimension.low, dimension.high)
            assert all(dimension.low <= v <= dimension.high for v in scalars(defaults[parameter]))
            assert dimension.listed == isinstance(defaults[parameter], tuple)
        for value in ends:
            new_model(name, {parameter: [value] if dimension.listed else value})


def test_models_with_parameters_worth_searching_declare_their_ranges():
    assert {n for n, kind in MODELS.items() if kind.search_space} >= {
        *("ridge", "latent_shift", "linear", "knn", "kernel_ridge", "gene_embedding_ridge"),
        *("set_kernel_ridge", "combo_kernel_ridge"),
        *("perturbfm-v0", "perturbfm-v1", "perturbfm-v2", "perturbfm-v3", "perturbfm-v3a"),
    }


def test_options_without_effect_are_not_searched():
    def searched(name, **params):
        return set(new_model(name, params).searchable())

    common = {"lr", "weight_decay", "hidden_dim", "dropout", "direction_weight"}
    graphs = {"adjacency": ["coexpression"]}
    assert searched("perturbfm-v0", **graphs) == searched("perturbfm-v1") == common
    assert searched("perturbfm-v1", **graphs) == common | {"diffusion_steps", "gating_mode"}
    assert searched("perturbfm-v1", **graphs, gating=False) == common | {"diffusion_steps"}
    assert searched("perturbfm-v2", **graphs, graph=False) == common | {"num_bases"}
    assert searched("perturbfm-v3", **graphs) == common | {"diffusion_steps", "gating_mode", "num_bases"}
    assert searched("perturbfm-v2", gate="off") == set()
    assert searched("knn") == {"components", "center", "neighbours"}
    assert searched("knn", gene_features=["go"]) == {"center", "neighbours"}
    assert searched("knn", gene_features=["go", "coexpression"]) == {"components", "center", "neighbours"}
