"""``perturbfm external run``: a worker from export to a run that is scored and ranked beside the others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.command import attempt, perturbfm


@pytest.fixture
def split() -> str:
    """Return the hash of a split of a small screen in the current directory."""
    size = ("--n-obs", 800, "--n-genes", 40, "--n-contexts", 3, "--n-perts", 5)
    perturbfm("data", "make-synth", "--out", "D", *size)
    held = ("--spec", "context_ood", "--holdout-context", "C0")
    return perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]


def test_a_worker_of_ones_own_is_scored_and_ranked(split, own_home):
    import perturbfm_core.external.work as work

    Path("my_model.py").write_text((work.WORKERS / "template_worker.py").read_text())
    options = ("--split", split, "--data", "D")
    done = attempt("external", "run", "my_model.py", *options, "--param", "shift=0.5", "--seed", 3, "--json")
    assert done.code == 0, done.err
    run = own_home / "runs" / done.json["run_id"]
    record = json.loads((run / "config.json").read_text())
    assert record["model"] == "external-worker"
    assert record["seed"] == 3
    assert record["params"]["settings"] == {"shift": 0.5}
    assert record["family"] == "learned"
    assert (
        attempt("external", "run", "my_model.py", *options, "--param", "shift=0.5", "--seed", 3).values[
            "run_id"
        ]
        == run.name
    )
    perturbfm("run", "--entry", "global_mean", *options)
    perturbfm("leaderboard", "refresh")
    shown = perturbfm("leaderboard", "show").out
    assert "my-model" in shown
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
