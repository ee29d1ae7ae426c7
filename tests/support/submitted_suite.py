"""A submitted suite in the current directory, and what its verbs report, for tests of submission."""

from __future__ import annotations

import pytest

from perturbfm_core.cli.output import store
from perturbfm_core.pipeline.suite_jobs import submissions
from tests.support.command import attempt, perturbfm


def submit(*words: object) -> dict:
    return perturbfm("suite", "submit", "t", *words, "--json").json


def status() -> dict:
    return perturbfm("suite", "status", "t", "--json").json


def states() -> list[str]:
    return [task["state"] for task in status()["tasks"]]


def run_task(index: int, patch: pytest.MonkeyPatch, job: str = "41") -> None:
    patch.setenv("SLURM_ARRAY_JOB_ID", job)
    patch.setenv("SLURM_ARRAY_TASK_ID", str(index))
    (made,) = submissions(store(), "t")[-1:]
    assert attempt("suite", "task", "t", made.id).code == 0


PLAN = {"suite": "t", "on": "slurm", "tasks": [[["h", "e", 0]]], "boot": "h@b", "time": 0.0}
