"""``external run --env PATH``: a worker in an interpreter of the user's own, and its licence before it starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import perturbfm_core.external.work as work
from perturbfm_core.external.known_environments import KNOWN
from tests.external.toy_environment import toy, write_program
from tests.support.command import attempt, perturbfm


@pytest.fixture
def split(own_home) -> str:
    """Return the hash of a split of a small screen in the current directory."""
    size = ("--n-obs", 500, "--n-genes", 20, "--n-contexts", 2, "--n-perts", 4)
    perturbfm("data", "make-synth", "--out", "D", *size)
    held = ("--spec", "context_ood", "--holdout-context", "C0")
    return perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]


def write_environment(folder: Path) -> Path:
    """Write an environment whose interpreter leaves a mark, and is this one."""
    text = f'#!/bin/sh\necho "$@" >> "{folder}/calls"\nexec "{sys.executable}" "$@"\n'
    write_program(folder / "bin/python", text)
    return folder


@pytest.mark.parametrize("given", ["folder", "interpreter"])
def test_the_worker_runs_in_the_environment_that_is_given(split, own_home, tmp_path, given):
    place = write_environment(tmp_path / "mine")
    (Path.cwd() / "my_model.py").write_text((work.WORKERS / "template_worker.py").read_text())
    env = place if given == "folder" else place / "bin/python"
    done = attempt("external", "run", "my_model.py", "--split", split, "--data", "D", "--env", env, "--json")
    assert done.code == 0, done.err
    assert "my_model.py" in (place / "calls").read_text()
    training = json.loads((Path(done.json["run_dir"]) / "training.json").read_text())
    assert training["worker"]["environment"].startswith("packages ")


@pytest.mark.parametrize("non_commercial", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_licence_that_forbids_commercial_use_is_shown_once_before_the_worker(
    split, own_home, tmp_path, monkeypatch, non_commercial, fails
):
    known = toy(name="worker", modules=("numpy",), non_commercial=non_commercial, licence="CC BY-NC 4.0")
    monkeypatch.setitem(KNOWN, "worker", known)
    place = write_environment(tmp_path / "mine")
    code = "raise SystemExit('no')" if fails else (work.WORKERS / "template_worker.py").read_text()
    (Path.cwd() / "w.py").write_text(code)
    line = ("external", "run", "w.py", "--split", split, "--data", "D", "--env", place, "--json")
    done = attempt(*line)
    assert done.code == (2 if fails else 0), done.err
    said = [x for x in done.err.splitlines() if "forbids commercial use" in x]
    assert (
        said == ["warning: toy-model forbids commercial use: CC BY-NC 4.0 (made for a test)"] * non_commercial
    )
    if non_commercial:
        # Also with --json, and before what the worker did.
        assert done.err.startswith(said[0])
