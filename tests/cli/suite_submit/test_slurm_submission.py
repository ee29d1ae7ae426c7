"""Suites submitted to Slurm: the job arrays that sbatch is given, and what is left where it refuses them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from perturbfm_core.pipeline.suite_jobs import submissions
from perturbfm_core.pipeline.suite_tasks import tasks_of
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.submitted_suite import submit


def test_a_job_array_and_its_refresh_are_submitted_with_what_was_asked_for(slurm):
    words = ("--partition", "gpu", "--time", "4:00:00", "--mem", "8G", "--gpus", 1, "--cpus", 3)
    more = ("--setup", "module load cuda", "--setup", "ulimit -n 4096", "--dependency", "afterok:7:9")
    made = submit("--on", "slurm", "--chunk", 4, *words, *more, "--option", "account=lab", "--parallel", 2)
    assert {k: made[k] for k in ("cells", "submitted", "tasks", "jobs", "refresh")} == {
        "cells": 6,
        "submitted": 6,
        "tasks": 2,
        "jobs": ["41"],
        "refresh": "42",
    }
    array, refresh = slurm.scripts["41"], slurm.scripts["42"]
    flags = dict(
        line[len("#SBATCH --") :].partition("=")[::2] for line in array.splitlines() if "#SBATCH" in line
    )
    assert {
        "account": "lab",
        "array": "0-1%2",
        "cpus-per-task": "3",
        "dependency": "afterok:7:9",
        "gpus-per-node": "1",
        "mem": "8G",
        "partition": "gpu",
        "time": "4:00:00",
        "chdir": os.getcwd(),
    }.items() <= flags.items()
    assert "wckey" not in flags
    lines = array.splitlines()
    assert (
        lines.index("module load cuda")
        < lines.index("ulimit -n 4096")
        < lines.index("export SUBMITIT_EXECUTOR=slurm")
    )
    assert f"export PERTURBFM_HOME={os.getcwd()}" in lines
    assert "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-3}" in lines
    assert re.search(
        rf"srun .*--cpus-per-task=3 .*cli\.main suite task t {made['submission']} --first 0$", array, re.M
    )
    assert "#SBATCH --dependency=afterany:41" in refresh
    assert refresh.rstrip().endswith("suite refresh t")
    # Nothing of ours, or of submitit, is pickled.
    assert list(Path("runs").rglob("*.pkl")) == []


def test_tasks_have_the_catalog_and_plugins_of_whoever_submits_them(slurm, monkeypatch):
    # Where Slurm passes no variables on.
    monkeypatch.setenv("PERTURBFM_PLUGINS", "my plug-ins")
    submit("--on", "slurm", "--option", "export=NONE")
    assert f"export PERTURBFM_PLUGINS='{os.getcwd()}/my plug-ins'" in slurm.scripts["41"].splitlines()


def test_what_is_not_asked_for_is_left_to_the_partition(slurm):
    submit("--on", "slurm")
    flags = {line.split("=")[0] for line in slurm.scripts["41"].splitlines() if line.startswith("#SBATCH")}
    assert not flags & {f"#SBATCH --{x}" for x in ("time", "mem", "partition", "gpus-per-node", "dependency")}
    assert "--array=0-0%1" in slurm.scripts["41"]


def test_dry_run_shows_the_file_and_makes_nothing(slurm, home):
    before = sorted(home.rglob("*"))
    answer = perturbfm("suite", "submit", "t", "--on", "slurm", "--chunk", 1, "--mem", "3G", "--dry-run")
    assert (answer.values["submitted"], answer.values["tasks"]) == ("6", "6")
    assert "#SBATCH --mem=3G" in answer.out
    assert "#SBATCH --array=0-5%6" in answer.out
    assert sorted(home.rglob("*")) == before
    assert slurm.scripts == {}


def test_dry_run_in_a_fresh_home_makes_no_lock(home, slurm):
    shutil.rmtree("runs", ignore_errors=True)
    for on in ("slurm", "local"):
        submit("--on", on, "--dry-run")
    assert not Path("runs").exists()


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize("name", ["a%j", "50%", "x/%A/y"])
def test_a_home_that_slurm_would_rewrite_is_refused(slurm, template, tmp_path, monkeypatch, name, more):
    shutil.copytree(template, tmp_path / name, symlinks=True)
    monkeypatch.chdir(tmp_path / name)
    answer = attempt("suite", "submit", "t", "--on", "slurm", *more)
    assert (answer.code, "has % in its path" in answer.err, slurm.scripts) == (2, True, {})


@pytest.mark.parametrize("missing", ["sbatch", "srun"])
def test_what_of_slurm_is_not_on_path_is_named(home, slurm, monkeypatch, missing):
    (home / "fake/bin" / missing).unlink()
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else real(name))
    answer = attempt("suite", "submit", "t", "--on", "slurm")
    assert (answer.code, answer.err.startswith(f"error: {missing} is not on PATH; submit from")) == (2, True)
    assert not list(Path("runs/.jobs").rglob("*.json"))


def test_a_setup_that_fails_ends_the_task(slurm, home):
    submit("--on", "slurm", "--setup", "no_such_module load x", "--setup", "echo later")
    lines = slurm.scripts["41"].splitlines()
    begin, end = lines.index("set -e"), lines.index("set +e")
    assert lines[begin + 1 : end] == ["no_such_module load x", "echo later"]
    found = subprocess.run(["bash", "fake/41.sh"], capture_output=True, text=True, check=False)
    assert (found.returncode, "later" in found.stdout, slurm.calls) == (127, False, slurm.calls[:1])


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("sbatch: error: invalid partition specified: gpuu", "invalid partition specified: gpuu"),
        ("sbatch: error: Batch job submission failed: Invalid account", "Invalid account"),
    ],
)
def test_a_refusal_of_sbatch_is_one_line_and_leaves_nothing(slurm, message, shown):
    slurm.fails("sbatch", message)
    answer = attempt("suite", "submit", "t", "--on", "slurm")
    assert answer.code == 2
    assert answer.err.startswith("error: sbatch refused the job: ")
    assert shown in answer.err
    assert list(Path("runs/.jobs").rglob("*.json")) == []


def test_a_refused_second_job_leaves_the_first_known(slurm, home):
    script = home / "fake/bin/sbatch"
    script.write_text(
        script.read_text().replace("#!/bin/sh", f'#!/bin/sh\n[ -f "{home}/fake/41.sh" ] && exit 1', 1)
    )
    assert attempt("suite", "submit", "t", "--on", "slurm").code == 2
    (made,) = submissions(ArtifactStore(), "t")
    assert (made.jobs, made.refresh) == ((("41", 0, 1),), None)


def takes(home: Path, n: int) -> None:
    """Let sbatch refuse all jobs but the first n."""
    script = home / "fake/bin/sbatch"
    refused = f'[ -f "{home}/fake/{40 + n}.sh" ] && {{ echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }}'
    script.write_text(script.read_text().replace("#!/bin/sh", f"#!/bin/sh\n{refused}", 1))


@pytest.mark.parametrize(
    ("limit", "n", "shown"),
    [
        (1000, 1, r"job\(s\) 41 with 6 tasks are queued; run `perturbfm suite refresh t` when they end$"),
        (
            2,
            2,
            r"job\(s\) 41, 42 with 4 tasks are queued; run `perturbfm suite refresh t` .*; 2 tasks are not",
        ),
    ],
)
def test_a_later_refusal_says_what_is_queued(slurm, home, monkeypatch, limit, n, shown):
    monkeypatch.setattr("perturbfm_core.pipeline.suite_slurm.ARRAY_LIMIT", limit)
    takes(home, n)
    answer = attempt("suite", "submit", "t", "--on", "slurm", "--chunk", 1)
    assert answer.code == 2
    assert re.search(rf"sbatch refused the job: .*QOSMaxSubmit.*; {shown}", answer.err, re.M)
    name = submissions(ArtifactStore(), "t")[0].job_name
    slurm.prints(
        "squeue", *(f"{41 + i // limit}_{i % limit}|PENDING|None|{name}" for i in range(min(6, n * limit)))
    )
    # Of what was refused nothing is queued: it can be submitted again.
    assert submit("--on", "slurm", "--dry-run")["submitted"] == max(0, 6 - n * limit)


def test_the_refresh_follows_the_arrays_that_were_taken(slurm, home, monkeypatch):
    monkeypatch.setattr("perturbfm_core.pipeline.suite_slurm.ARRAY_LIMIT", 4)
    script = home / "fake/bin/sbatch"
    once = f'[ -f "{home}/fake/41.sh" ] && [ ! -f "{home}/once" ] && {{ touch "{home}/once"; exit 1; }}'
    script.write_text(script.read_text().replace("#!/bin/sh", f"#!/bin/sh\n{once}", 1))
    answer = attempt("suite", "submit", "t", "--on", "slurm", "--chunk", 1)
    assert "job(s) 41 with 4 tasks are queued; job 42 refreshes the leaderboard when they end" in answer.err
    assert "#SBATCH --dependency=afterany:41" in slurm.scripts["42"]
    (made,) = submissions(ArtifactStore(), "t")
    assert (made.jobs, made.refresh) == ((("41", 0, 4),), "42")


def test_many_tasks_are_several_arrays(slurm, monkeypatch):
    monkeypatch.setattr("perturbfm_core.pipeline.suite_slurm.ARRAY_LIMIT", 4)
    made = submit("--on", "slurm", "--chunk", 1)
    assert made["jobs"] == ["41", "42"]
    assert "--array=0-3%4" in slurm.scripts["41"]
    assert "--array=0-1%2" in slurm.scripts["42"]
    assert " --first 4" in slurm.scripts["42"]
    assert "--dependency=afterany:41:42" in slurm.scripts["43"]
    assert [t.job for t in tasks_of(ArtifactStore(), "t")] == ["41_0", "41_1", "41_2", "41_3", "42_0", "42_1"]
