"""Runs brought up to new metrics and panels without a fit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.models.baselines.means import GlobalMean
from perturbfm_core.pipeline import metric_panel
from perturbfm_core.pipeline.rescoring import rescore, runs_to_rescore
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import is_whole, read_run_record
from tests.support.command import VARIABLES, attempt, perturbfm
from tests.support.few_panels import brief
from tests.support.paths import REPO

PLUGIN = '''
"""Share of the genes that change in the predicted direction."""

import numpy as np

from perturbfm_core.evaluation.metric import metric


@metric("delta", "sign_agreement", direction="max", bounds=(0.0, 1.0), version="1", source="this folder")
def sign_agreement(c):
    """Share of genes whose predicted delta has the sign of the observed one."""
    return np.mean(np.sign(c.predicted) == np.sign(c.observed), axis=1)
'''


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a fitted run and a submission of two panels."""
    path = tmp_path_factory.mktemp("rescore")
    with pytest.MonkeyPatch.context() as patch, brief("delta"):
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        size = ("--n-obs", 200, "--n-genes", 50, "--n-contexts", 3, "--n-perts", 5)
        perturbfm("data", "make-synth", "--out", "D", *size)
        held = ("--spec", "context_ood", "--holdout-context", "C0")
        split = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
        perturbfm("run", "--data", "D", "--split", split, "--entry", "global_mean")
        run = ArtifactStore().run_dirs()[0]
        with np.load(run / "predictions.npz") as arrays:
            kept = {
                name: arrays[name]
                for name in arrays.files
                if not name.startswith(("var", "interval", "gene_bin"))
            }
        kept["mean"] = kept["mean"] * 0.5
        np.savez(path / "mine.npz", **kept)
        answer = attempt("submit", "mine.npz", "--data", "D", "--split", split, "--entry", "mine")
        assert answer.code == 0, answer.err
    return path


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(autouse=True)
def few_panels():
    with brief("delta"):
        yield


def records():
    return {r.run_id: r for r in (read_run_record(p) for p in ArtifactStore().run_dirs())}


def newest(entry):
    return [r for r in records().values() if r.entry == entry][-1]


@pytest.fixture
def other_code(monkeypatch):
    """Make the code behind panel `delta` another one."""
    plain = metric_panel.scoring_code

    def changed():
        return {**plain(), "delta": "another digest"}

    def scoring(module):
        monkeypatch.setattr(module, "scoring_code", changed)

    from perturbfm_core.pipeline import report, rescoring, rescoring_external

    for module in (metric_panel, report, rescoring, rescoring_external):
        scoring(module)


def test_runs_that_are_up_to_date_are_left_alone(place):
    answer = perturbfm("rescore", "--all", "--json").json
    assert (answer["runs"], answer["up_to_date"], answer["rescored"]) == (2, 2, 0)
    assert len(records()) == 2


def test_a_metric_of_a_plug_in_comes_into_old_runs_without_a_fit(place):
    """With every panel, in a process that has the plug-in: a fit would need the model, which the catalog lacks then."""
    before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}
    plugin = place / ".perturbfm/plugins/sign_agreement.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(PLUGIN)
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-m", "perturbfm_core.cli.main", "rescore", "--all", "--panel", "delta", "--json"],
        env={**environment, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["run"]: row for row in json.loads(done.stdout)["rows"]}
    assert {row["state"] for row in rows.values()} == {"rescored"}
    for old, row in rows.items():
        new = Path("runs") / row["new"]
        record, origin = read_run_record(new), read_run_record(Path("runs") / old)
        assert (record.rescored_from, record.parent_run) == (old, old)
        assert (record.config_hash, record.seed) == (origin.config_hash, origin.seed)
        assert {k: v for k, v in record.code.items() if k != "metric_panel"} == {
            k: v for k, v in origin.code.items() if k != "metric_panel"
        }
        assert (record.timings, record.environment) == (origin.timings, origin.environment)
        assert list(record.plugins) == ["sign_agreement.py"]
        assert is_whole(new, record)
        assert (
            new.joinpath("predictions.npz").read_bytes()
            == (Path("runs") / old / "predictions.npz").read_bytes()
        )
        value = json.loads((new / "metrics.json").read_text())["delta"]["global"]["sign_agreement"]
        assert 0 <= value <= 1
        table = pd.read_parquet(new / "scores.parquet")
        assert set(table["run_id"]) == {row["new"]}
        had = pd.read_parquet(Path("runs") / old / "scores.parquet")
        both = table.merge(had, on=["panel", "metric", "scope", "key"], suffixes=("", "_old"))
        assert len(both) == len(had)
        assert np.array_equal(both["value"], both["value_old"], equal_nan=True)
    assert all(path.read_bytes() == content for path, content in before.items() if ".locks" not in str(path))


def test_a_changed_panel_is_scored_anew_and_found_by_run(place, other_code, monkeypatch):
    monkeypatch.setattr(GlobalMean, "fit", lambda *_: pytest.fail("fitted"))
    old = newest("global_mean")
    answer = perturbfm("rescore", "--run", old.run_id, "--json").json
    assert answer["rescored"] == 1
    new = newest("global_mean")
    assert new.run_id != old.run_id
    assert new.objects.panels["delta"] != old.objects.panels["delta"]
    assert new.objects.panels["uncertainty"] == old.objects.panels["uncertainty"]
    assert (new.objects.model, new.objects.prediction) == (old.objects.model, old.objects.prediction)
    again = perturbfm(
        "run", "--data", "D", "--split", new.split_hash, "--entry", "global_mean", "--json"
    ).json
    assert (again["existing"], again["run_id"]) == (True, new.run_id)


def test_what_garbage_collection_removed_is_restored_from_the_run(place, other_code, monkeypatch):
    monkeypatch.setattr(GlobalMean, "fit", lambda *_: pytest.fail("fitted"))
    old = newest("global_mean")
    store = ArtifactStore()
    names, path = ("fit.json", "model.json", "audit.json"), store.object(old.objects.model)
    kept = {name: json.loads((path / name).read_text()) for name in names}
    shutil.rmtree(store.objects)
    assert perturbfm("rescore", "--all", "--json").json["rescored"] == 2
    assert {name: json.loads((path / name).read_text()) for name in names} == kept


def test_a_panel_alone_leaves_the_others_and_the_rest_is_done_later(place, monkeypatch, other_code):
    old = newest("global_mean")
    assert (
        perturbfm("rescore", "--run", old.run_id, "--panel", "uncertainty", "--json").json["up_to_date"] == 1
    )
    assert perturbfm("rescore", "--run", old.run_id, "--panel", "delta", "--json").json["rescored"] == 1
    assert perturbfm("rescore", "--all", "--panel", "delta", "--json").json["up_to_date"] == 2
    assert perturbfm("rescore", "--all", "--json").json["up_to_date"] == 1


def test_a_submission_has_the_same_scores_by_the_same_metrics(place, other_code):
    old = newest("mine")
    assert perturbfm("rescore", "--run", old.run_id, "--json").json["rescored"] == 1
    new = newest("mine")
    assert new.submission == old.submission
    assert (new.var_filled, new.alignment, new.notes) == (old.var_filled, old.alignment, old.notes)
    a, b = (pd.read_parquet(Path("runs") / r.run_id / "scores.parquet") for r in (old, new))
    columns = ["panel", "metric", "scope", "key", "value", "status", "reason"]
    pd.testing.assert_frame_equal(a[columns], b[columns])
    assert (Path("runs") / new.run_id / "calibration.json").read_text() == (
        Path("runs") / old.run_id / "calibration.json"
    ).read_text()


def test_runs_that_cannot_be_scored_again_say_why(place, other_code):
    store = ArtifactStore()
    fitted, mine = newest("global_mean"), newest("mine")
    with (store.run(fitted.run_id) / "audit.json").open("a") as handle:
        handle.write(" ")
    config = store.run(mine.run_id) / "config.json"
    content = json.loads(config.read_text())
    content["notes"]["own_cells"] = {"conditions": 2, "panels": []}
    config.write_text(json.dumps(content))
    answer = attempt("rescore", "--all", "--json")
    assert answer.code == 1
    reasons = {row["run"]: row["reason"] for row in answer.json["rows"]}
    assert reasons[fitted.run_id].startswith("a file of it is missing or was changed")
    assert "predicted cells, which a run does not keep" in reasons[mine.run_id]
    assert len(records()) == 2


def test_the_newest_of_a_configuration_only(place, other_code):
    old = newest("global_mean")
    perturbfm("run", "--data", "D", "--split", old.split_hash, "--entry", "global_mean", "--again")
    answer = attempt("rescore", "--run", old.run_id)
    assert answer.code == 2
    assert f"run {old.run_id} is not the newest of its configuration" in answer.err
    assert [r.record.run_id for r in runs_to_rescore(ArtifactStore(), None)] == [
        newest("mine").run_id,
        newest("global_mean").run_id,
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "rescore takes --run ID (one or more) or --all"),
        (("--all", "--run", "x"), "rescore takes --run ID (one or more) or --all"),
        (("--run", "nothing"), "no run in runs match 'nothing'"),
        (("--all", "--panel", "dleta"), "unknown panel 'dleta'"),
    ],
)
def test_what_is_asked_must_be_there(place, words, message):
    answer = attempt("rescore", *words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")


def test_a_run_without_its_data_is_refused(place, other_code):
    (path, *_) = ArtifactStore().run_dirs()
    content = json.loads((path / "config.json").read_text())
    content["dataset"]["path"] = "elsewhere"
    (path / "config.json").write_text(json.dumps(content))
    found = rescore(ArtifactStore(), path)
    assert found.state == "refused"
    assert "is not at hand; give --data DIR" in str(found.reason)
