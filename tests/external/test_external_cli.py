"""``perturbfm external run``: a worker from export to a run that is scored and ranked beside the others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm


@pytest.fixture
def split() -> str:
    """Return the hash of a split of a small screen in the current directory."""
    size = ("--n-obs", 800, "--n-genes", 40, "--n-contexts", 3, "--n-perts", 5)
    perturbfm("data", "make-synth", "--out", "D", *size)
    held = ("--spec", "context_ood", "--holdout-context", "C0")
    return perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]


def worker(own: str | None = None) -> str:
    """Return the template worker, with a control of its own if an expression of its predictions `rows` is given."""
    import perturbfm_core.external.work as work

    text, mark = (work.WORKERS / "template_worker.py").read_text(), '    replace(out / "raw.npz"'
    assert text.count(mark) == 1
    return text if own is None else text.replace(mark, f"    arrays['control'] = {own}\n{mark}")


def test_a_worker_of_ones_own_is_scored_and_ranked(split, own_home):
    Path("my_model.py").write_text(worker("0.9 * rows.mean(axis=0) + 0 * rows"))
    options = ("--split", split, "--data", "D")
    done = attempt("external", "run", "my_model.py", *options, "--param", "shift=0.5", "--seed", 3, "--json")
    assert done.code == 0, done.err
    run = own_home / "runs" / done.json["run_id"]
    record = json.loads((run / "config.json").read_text())
    assert record["model"] == "external-worker"
    assert record["seed"] == 3
    assert record["params"]["settings"] == {"shift": 0.5}
    assert record["family"] == "learned"
    # The same output by the model's own control, scored beside it under a name of its own.
    own = json.loads((own_home / "runs" / done.json["own_control_run_id"] / "config.json").read_text())
    assert (own["entry"], own["seed"], own["params"]["control"]) == (
        f"{record['entry']}-own-control",
        3,
        "model",
    )
    assert own["params"] | {"control": "real"} == record["params"]
    training = [
        json.loads((r / "training.json").read_text()) for r in (run, own_home / "runs" / own["run_id"])
    ]
    assert training[0]["worker"]["output"] == training[1]["worker"]["output"]
    values = [
        json.loads((own_home / "runs" / c["run_id"] / "metrics.json").read_text()) for c in (record, own)
    ]
    assert done.json["own_control.delta.pearson_centered"] == values[1]["delta"]["global"]["pearson_centered"]
    assert values[0]["delta"]["global"]["rmse"] != values[1]["delta"]["global"]["rmse"]
    # What the worker took is what a fit cost, though its output was only found for the second.
    spent = training[0]["worker"]["cpu_s"]
    assert spent > 0
    assert min(record["cost"]["fit_cpu_s"], own["cost"]["fit_cpu_s"]) >= spent
    peak = training[0]["worker"].get("peak_bytes", 0)
    assert min(record["cost"]["fit_peak_bytes"], own["cost"]["fit_peak_bytes"]) >= peak
    again = attempt("external", "run", "my_model.py", *options, "--param", "shift=0.5", "--seed", 3)
    assert again.values["run_id"] == run.name
    assert again.values["own_control_run_id"] == own["run_id"]
    perturbfm("run", "--entry", "global_mean", *options)
    perturbfm("leaderboard", "refresh")
    shown = perturbfm("leaderboard", "show").out
    assert "my-model" in shown
    assert "-own-control" in shown
    assert "global_mean" in shown


def test_what_cannot_run_is_one_line(split, own_home):
    def refused(*argv) -> str:
        done = attempt("external", "run", *argv, "--split", split, "--data", "D")
        assert (done.code, done.err.strip().count("\n")) == (2, 0), done.err
        return done.err

    assert "perturbfm external env create scgen" in (text := refused("scgen"))
    assert "--env PATH" in text
    assert "needs contexts that train has" in refused("external-cpa")
    assert "is no external model" in refused("global_mean")
    assert "is not there" in refused("nothing.py")
    assert "unknown model 'nothing'" in refused("nothing")
    Path("bad.py").write_text("print('so far')\nraise SystemExit(4)\n")
    assert "worker of worker failed: so far (exit code 4)" in refused("bad.py", "--timeout", "60")
    assert "has no bin/python" in refused("bad.py", "--env", "D")
    # What a verb sets for its worker is gone with it.
    assert not {"PERTURBFM_ENV_WORKER", "PERTURBFM_EXTERNAL_TIMEOUT"} & set(os.environ)


@pytest.mark.parametrize(
    ("own", "param"),
    [
        # A worker without a control of its own, a run that asks for nothing else than it, and one that is the prediction.
        (None, ()),
        ("0.9 * rows.mean(axis=0) + 0 * rows", ("--param", "control=model")),
        ("rows", ("--param", "degenerate=flag")),
    ],
)
def test_an_own_control_is_scored_beside_the_real_one_where_there_is_one(split, own_home, own, param):
    Path("w.py").write_text(worker(own))
    done = attempt("external", "run", "w.py", "--split", split, "--data", "D", *param)
    assert done.code == 0, done.err
    beside = own == "rows"
    assert ("own_control_run_id" in done.values) is beside
    assert len(list((own_home / "runs").glob("2*"))) == 1 + beside


# Ended before its output the first time, it finds then what it has left; its earlier seconds are part of the cost.
KEEPS = """
import json, os, sys
kept = os.environ["PERTURBFM_KEPT"]
if not os.listdir(kept):
    open(os.path.join(kept, "spent.json"), "w").write(SPENT)
    print("half way")
    os._exit(3)
"""


def kept_worker(spent: str) -> str:
    first, *rest = worker().split('"""', 2)
    return f'{first}"""{rest[0]}"""\n{rest[1]}'.replace(
        "import numpy as np", KEEPS.replace("SPENT", repr(spent)) + "import numpy as np", 1
    )


def test_half_a_record_of_the_cost_does_not_stop_the_next_attempt(split):
    Path("w.py").write_text(kept_worker('{"seconds": 5'))
    line = ("external", "run", "w.py", "--split", split, "--data", "D")
    assert "half way (exit code 3)" in attempt(*line).err
    assert attempt(*line).code == 0


def test_a_worker_that_was_ended_finds_what_it_left_and_the_cost_is_of_all_attempts(split, own_home):
    Path("w.py").write_text(kept_worker('{"seconds": 5000, "cpu_s": 4000}'))
    line = ("external", "run", "w.py", "--split", split, "--data", "D")
    done = attempt(*line)
    assert (done.code, "half way (exit code 3)" in done.err) == (2, True)
    (left,) = (own_home / "runs/.external").iterdir()
    assert perturbfm("runs", "gc", "--json").json["unfinished"] == 0
    assert perturbfm("runs", "gc", "--min-age", 0, "--json").json["unfinished"] == 1
    run = own_home / "runs" / perturbfm(*line).values["run_id"]
    cost = json.loads((run / "training.json").read_text())["worker"]
    assert 4000 < cost["cpu_s"] < 4500
    assert 5000 < cost["seconds"] < 5500
    assert not left.exists()


def test_an_unfinished_fit_is_removed_by_gc_unless_somebody_makes_it(split, own_home):
    Path("w.py").write_text(kept_worker('{"cpu_s": "much"}'))
    line = ("external", "run", "w.py", "--split", split, "--data", "D")
    assert attempt(*line).code == 2
    assert "a worker writes seconds and cpu_s there, or nothing" in attempt(*line).err
    (left,) = (own_home / "runs/.external").iterdir()
    store = ArtifactStore()
    with store.lock(f"external-{left.name}"):
        perturbfm("runs", "gc", "--min-age", 0, "--yes")
        assert left.is_dir()
    perturbfm("runs", "gc", "--min-age", 0, "--yes")
    assert not left.exists()
