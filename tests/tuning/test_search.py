"""The search: what is selected, pruned, fitted once, run at once, and what cannot be searched."""

from __future__ import annotations

import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.errors import ConfigError, ModelError, SplitError
from perturbfm_core.models.baselines.latent import LatentShift
from perturbfm_core.models.search import IntRange
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.tuning import search
from perturbfm_core.tuning.search import tune
from perturbfm_core.tuning.validation import FoldScore, Validation, value_of
from tests.support.tuning_screen import entry, run, untimed


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
    run(store, splits["fold"], trials=2, tell=texts.append)
    assert texts[:2] == ["scoring linear as it is", "trial 1 of 2, best 0.1000"]
    assert texts.count("done:") == 2
    again = []
    run(store, splits["fold"], trials=3, tell=again.append)
    # A study that goes on begins where it was.
    assert again[:2] == ["done:", "done:"]
    assert again[2].startswith("trial 3 of 3, best ")


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


def test_which_of_several_trials_ends_first_changes_nothing(store, splits, scored, monkeypatch):
    # In threads of this process, so that it can be said which trials are slow.
    monkeypatch.setattr(search, "scorer", lambda validation, job, jobs: nullcontext(validation.score))
    monkeypatch.setenv("PERTURBFM_MAX_TRAIN", "4")

    def searched(name, slow):
        def by(params, fold):
            value = params.get("penalty", 0.0)
            time.sleep(0.03 * (slow(value) and fold > 0))
            return value

        scored.by = by
        return untimed(run(store, splits["inner_cv"], trials=8, jobs=4, name=name, seed=2).study)

    assert searched("low", lambda value: value < 1.0) == searched("high", lambda value: value >= 1.0)


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
