"""Studies that go on: resumed, interrupted, killed, refused for other inputs, and read by optuna itself."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

from perturbfm_core.errors import ConfigError, StoreError
from perturbfm_core.graphs.features import GeneFeatures
from perturbfm_core.graphs.io import write_features
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.tuning import identity
from perturbfm_core.tuning.search import tune
from tests.support.paths import REPO
from tests.support.tuning_screen import entry, params_and_values, run, untimed


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
    monkeypatch.setattr(identity, "code_of", lambda *_: SimpleNamespace(digest="changed"))
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
