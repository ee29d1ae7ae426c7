"""Suites submitted as tasks: to Slurm by stand-ins of its commands, to this host as real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from perturbfm_core.cli.output import store
from perturbfm_core.cli.suite_submit import _options
from perturbfm_core.errors import ClusterError, ConfigError, StoreError
from perturbfm_core.pipeline import slurm_queue, suite_jobs
from perturbfm_core.pipeline.suite_jobs import new_submission, read_submission, submissions
from perturbfm_core.pipeline.suite_processes import end_processes
from perturbfm_core.pipeline.suite_submit import cancel_tasks
from perturbfm_core.pipeline.suite_tasks import tasks_of
from perturbfm_core.store.artifacts import ArtifactStore
from tests.cli.test_suite import declare
from tests.real.conftest import brief
from tests.support.command import VARIABLES, attempt, perturbfm
from tests.support.fake_slurm import FakeSlurm


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make data and splits of a suite of six cells, and return the folder."""
    path = tmp_path_factory.mktemp("submit")
    declare(path, models=["control_only", "global_mean"])
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        FakeSlurm(path / "fake", patch)
        perturbfm("suite", "submit", "t", "--on", "slurm", "--json")
    shutil.rmtree(path / "fake")
    shutil.rmtree(path / "runs/.jobs")
    return path


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    """Return a private copy of that folder, which is the current directory."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def slurm(home: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put the stand-ins on PATH."""
    return FakeSlurm(home / "fake", monkeypatch)


@pytest.fixture
def quick() -> Iterator[None]:
    """Score two panels, and draw no reports."""
    with brief("delta"):
        yield


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


# ---- Slurm ---------------------------------------------------------------------------------------------------


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


def test_what_waits_or_runs_is_not_submitted_again(slurm):
    made = submit("--on", "slurm", "--chunk", 2)
    name = f"perturbfm-t-{made['submission']}"
    slurm.prints("squeue", f"41_0|RUNNING|None|{name}", *(f"41_{i}|PENDING|Priority|{name}" for i in (1, 2)))
    found = status()
    assert (found["running"], found["queued"], found["missing"]) == (2, 4, 0)
    assert [(t["state"], t["job"], t["reason"]) for t in found["tasks"]] == [
        ("running", "41_0", None),
        ("queued", "41_1", "Priority"),
        ("queued", "41_2", "Priority"),
    ]
    rows = perturbfm("suite", "status", "t", "--state", "queued", "--json").json["rows"]
    assert len(rows) == 4
    again = submit("--on", "slurm")
    assert (again["submitted"], again["queued_or_running"], list(slurm.scripts)) == (0, 6, ["41", "42"])


def test_only_what_is_lost_cancelled_or_failed_is_submitted_again(slurm, quick, monkeypatch):
    made = submit("--on", "slurm", "--chunk", 2)
    name = f"perturbfm-t-{made['submission']}"
    run_task(1, monkeypatch)
    slurm.prints("squeue", f"41_2|PENDING|Resources|{name}")
    slurm.prints("sacct", "41_0|OUT_OF_MEMORY|0:125", "41_1|COMPLETED|0:0", "41_[2]|PENDING|0:0")
    tasks = status()["tasks"]
    assert [(t["state"], t["reason"], t["made"]) for t in tasks] == [
        ("lost", "OUT_OF_MEMORY (exit 0:125)", None),
        ("done", None, 2),
        ("queued", "Resources", None),
    ]
    again = submit("--on", "slurm", "--chunk", 1)
    assert (again["done"], again["queued_or_running"], again["submitted"], again["tasks"]) == (2, 2, 2, 2)
    slurm.prints("squeue")
    slurm.prints("sacct", "41_0|OUT_OF_MEMORY|0:125", "41_2|CANCELLED by 1000|0:0", "43_0|TIMEOUT|0:0")
    # Of the second submission, one is out of time and of the other nothing is known.
    assert [t["state"] for t in status()["tasks"]] == ["lost", "lost"]
    assert [t.state for t in tasks_of(ArtifactStore(), "t")] == ["lost", "done", "cancelled", "lost", "lost"]
    assert submit("--on", "slurm", "--dry-run")["submitted"] == 4


def test_submissions_of_one_second_are_in_the_order_in_which_they_were_made(home, monkeypatch):
    """Their names begin with the same second and end at random."""
    ends, seconds = iter(["ffff", "0000"]), iter([1000.25, 1000.75])
    draws = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=next(ends)))
    monkeypatch.setattr(suite_jobs, "uuid", draws)
    clock = SimpleNamespace(time=lambda: next(seconds), strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr(suite_jobs, "time", clock)
    made = [new_submission(ArtifactStore(), "t", "local", []).id for _ in range(2)]
    assert [name[-4:] for name in made] == ["ffff", "0000"]
    assert [s.id for s in submissions(ArtifactStore(), "t")] == made


def test_without_accounting_what_is_gone_is_lost(slurm):
    submit("--on", "slurm", "--chunk", 3)
    slurm.fails("sacct", "Slurm accounting storage is disabled")
    assert [(t["state"], t["reason"]) for t in status()["tasks"]] == [
        ("lost", "Slurm has no such job, and it wrote no end")
    ] * 2


def test_where_squeue_cannot_be_asked_nothing_is_submitted_twice(slurm):
    submit("--on", "slurm", "--chunk", 3)
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert states() == ["unknown"] * 2
    assert submit("--on", "slurm")["submitted"] == 0
    answer = attempt("suite", "cancel", "t")
    assert (answer.code, answer.err.startswith("error: squeue failed: slurm_load_jobs error")) == (2, True)


def test_cancel_names_each_array_and_the_refresh(slurm):
    made = submit("--on", "slurm", "--chunk", 2)
    name = f"perturbfm-t-{made['submission']}"
    slurm.prints(
        "squeue",
        *(f"41_{i}|PENDING|Priority|{name}" for i in range(3)),
        f"42|PENDING|Dependency|{name}-refresh",
    )
    assert perturbfm("suite", "cancel", "t", "--json").json == {"suite": "t", "cancelled": 3, "cells": 6}
    assert slurm.calls[-1] == "scancel 41 42"


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


@pytest.mark.parametrize(
    ("line", "tasks"),
    [
        ("51_[1-2%3]|CANCELLED by 0|0:0", ["51_1", "51_2"]),
        ("51_[1,3-4]|CANCELLED|0:0", ["51_1", "51_3", "51_4"]),
        ("51_[0-6:3%2]|CANCELLED by 7|0:0", ["51_0", "51_3", "51_6"]),
        ("51_[2]|CANCELLED|", ["51_2"]),
        ("51_2|CANCELLED|", ["51_2"]),
        ("51|CANCELLED|", ["51"]),
        ("51_[...]|CANCELLED|", ["51_[...]"]),
    ],
)
def test_a_range_of_tasks_in_the_accounts_is_each_of_them(slurm, line, tasks):
    slurm.prints("sacct", line)
    assert slurm_queue.endings(["51"]) == dict.fromkeys(tasks, "CANCELLED")
    slurm.prints("sacct", "51_2|TIMEOUT|0:0", line.replace("51_2|", "51_9|"))
    assert slurm_queue.endings(["51"])["51_2"] == "TIMEOUT"


def test_cancelled_tasks_that_never_began_are_cancelled(slurm):
    made = submit("--on", "slurm", "--chunk", 2)
    slurm.prints("sacct", "41_0|CANCELLED by 0|0:15", "41_[1-2%3]|CANCELLED by 0|0:0")
    assert states() == ["cancelled"] * 3
    # Where no accounts are kept, the cancellation itself is known.
    slurm.fails("sacct", "Slurm accounting storage is disabled")
    assert states() == ["lost"] * 3
    name = f"perturbfm-t-{made['submission']}"
    slurm.prints("squeue", f"41_0|RUNNING|None|{name}", *(f"41_{i}|PENDING|Priority|{name}" for i in (1, 2)))
    assert perturbfm("suite", "cancel", "t", "--json").json["cancelled"] == 3
    assert states() == ["running", "queued", "queued"]
    slurm.prints("squeue")
    assert states() == ["lost", "cancelled", "cancelled"]
    assert [t["host"] for t in status()["tasks"]] == [None] * 3


def test_many_tasks_are_several_arrays(slurm, monkeypatch):
    monkeypatch.setattr("perturbfm_core.pipeline.suite_slurm.ARRAY_LIMIT", 4)
    made = submit("--on", "slurm", "--chunk", 1)
    assert made["jobs"] == ["41", "42"]
    assert "--array=0-3%4" in slurm.scripts["41"]
    assert "--array=0-1%2" in slurm.scripts["42"]
    assert " --first 4" in slurm.scripts["42"]
    assert "--dependency=afterany:41:42" in slurm.scripts["43"]
    assert [t.job for t in tasks_of(ArtifactStore(), "t")] == ["41_0", "41_1", "41_2", "41_3", "42_0", "42_1"]


def test_logs_show_the_files_of_tasks_and_the_text_of_a_cell(slurm):
    made = submit("--on", "slurm", "--chunk", 2)
    folder = Path("runs/.jobs/t", made["submission"])
    (folder / "41_1_0_log.out").write_text("".join(f"line {i}\n" for i in range(50)))
    rows = perturbfm("suite", "logs", "t", "--json").json
    assert [Path(r["log"]).name for r in rows] == [f"41_{i}_0_log.out" for i in range(3)]
    (label,) = {f"{r['split']} {r['entry']} seed 0" for r in status()["rows"][2:3]}
    answer = perturbfm("suite", "logs", "t", *label.split(), "--lines", 3)
    assert answer.out.endswith("line 47\nline 48\nline 49\n")
    found = perturbfm("suite", "logs", "t", "global_mean", "--json").json
    assert len(found["cells"]) == 3
    answer = attempt("suite", "logs", "t", "nothing_like_it")
    assert (answer.code, "no submitted cell of suite 't' has 'nothing_like_it'" in answer.err) == (2, True)


def test_a_damaged_record_of_a_submission_is_named(slurm):
    made = submit("--on", "slurm")
    Path("runs/.jobs/t", made["submission"], "submission.json").write_text("{}")
    answer = attempt("suite", "status", "t")
    assert (answer.code, "is no record of a submission" in answer.err) == (2, True)


PLAN = {"suite": "t", "on": "slurm", "tasks": [[["h", "e", 0]]], "boot": "h@b", "time": 0.0}


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("started.json", "[]", "it holds []"),
        ("started.json", "null", "it holds None"),
        ("started.json", "5", "it holds 5"),
        ("started.json", '{"jobs": [[', "not valid JSON"),
        ("started.json", '{"jobs": 5}', "jobs is 5"),
        ("started.json", '{"jobs": [["41", 0, 9]]}', "a job is"),
        ("started.json", '{"jobs": [["41", "0", 1]]}', "a job is"),
        ("started.json", '{"jobs": [["abc", 0, 1]]}', "a number is 'abc'"),
        ("started.json", '{"jobs": [], "refresh": []}', "a number is []"),
        ("submission.json", "null", "it holds None"),
        ("submission.json", '{"suite"', "not valid JSON"),
        ("submission.json", json.dumps(PLAN | {"on": "foo"}), "on is 'foo', none of: slurm, local"),
        ("submission.json", json.dumps(PLAN | {"tasks": {}}), "tasks is {}"),
        ("submission.json", json.dumps(PLAN | {"tasks": [["abc"]]}), "a cell of its tasks is 'abc'"),
        ("submission.json", json.dumps(PLAN | {"boot": 5}), "boot is 5"),
        ("submission.json", json.dumps(PLAN | {"time": "now"}), "time is 'now'"),
    ],
)
def test_a_damaged_file_of_a_submission_is_named_with_the_cure(tmp_path, file, text, why):
    folder = tmp_path / "t/id"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps(PLAN))
    (folder / file).write_text(text)
    with pytest.raises(StoreError) as caught:
        read_submission(folder)
    said = str(caught.value)
    assert said.startswith(str(folder / file))
    assert why in said
    assert ("remove this file" if file == "started.json" else f"remove the folder {folder}") in said
    assert "restore" not in said


@pytest.mark.parametrize("pid", ["abc", "999999999999", "0", "1", "-1", 0, True, None, "٣٣"])
def test_what_is_no_process_is_never_ended(tmp_path, pid):
    folder = tmp_path / "t/id"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps(PLAN | {"on": "local"}))
    (folder / "started.json").write_text(json.dumps({"jobs": [[pid, 0, 1]]}))
    with pytest.raises(StoreError, match=r"started\.json is no record .*number of a process"):
        read_submission(folder)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"', "{", "{}", '{"state": "ended", "failed": []}', '{"state": "running", "job": {}}'])  # fmt: skip
def test_a_damaged_record_of_a_task_stops_nothing(slurm, text):
    made = submit("--on", "slurm", "--chunk", 3)
    file = Path("runs/.jobs/t", made["submission"], "task-0000.json").absolute()
    file.write_text(text)
    slurm.prints("squeue", f"41_0|RUNNING|None|perturbfm-t-{made['submission']}")
    first, other = tasks_of(ArtifactStore(), "t")
    assert (first.state, other.state) == ("running", "lost")
    assert first.reason.startswith(str(file))
    assert first.reason.endswith("; remove this file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--on", "pbs"), "--on 'pbs' is none of: slurm, local"),
        (("--on", "local", "--mem", "8G", "--gpus", "1"), "--mem, --gpus is for Slurm to decide about"),
        (
            ("--on", "slurm", "--option", "account="),
            "--option takes NAME=VALUE or NAME as sbatch has it, found 'account='",
        ),
        (
            ("--on", "slurm", "--option", "A=lab"),
            "--option takes NAME=VALUE or NAME in full as sbatch has it, found 'A=lab'",
        ),
        (("--on", "slurm", "--option", "qos=a", "--option", "qos=b"), "--option qos is given twice"),
        (("--on", "slurm", "--option", "=lab"), "--option takes NAME=VALUE or NAME as sbatch has it"),
        (("--on", "slurm", "--option", "--"), "--option takes NAME=VALUE or NAME as sbatch has it"),
        (("--on", "slurm", "--option", "Account=lab"), "--option takes NAME=VALUE or NAME as sbatch has it"),
        (("--on", "slurm", "--only", "entry=ridge"), "suite 't' has no entry 'ridge'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(home, words, message):
    answer = attempt("suite", "submit", "t", *words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("job_name=mine", "perturbfm sets job-name"),
        ("job-name=mine", "perturbfm sets job-name"),
        ("--job-nam=mine", "perturbfm sets job-name"),
        ("-J=mine", "perturbfm sets job-name"),
        ("array=0-5", "perturbfm sets array"),
        ("output=/dev/null", "perturbfm sets output"),
        ("err=x", "perturbfm sets error"),
        ("open_mode=truncate", "perturbfm sets open-mode"),
        ("signal=USR1@5", "perturbfm sets signal"),
        ("D=/tmp", "perturbfm sets chdir"),
        ("wrap=true", "perturbfm sets wrap"),
        ("test-only", "perturbfm sets test-only"),
        ("clusters=other", "set SLURM_CLUSTERS"),
        ("dependency=afterok:7", "is --dependency of this verb"),
        ("depend=afterok:7", "is --dependency of this verb"),
        ("mem=3G", "is --mem of this verb"),
        ("time=10", "is --time of this verb"),
        ("t=10", "is --time of this verb"),
        ("part=gpu", "is --partition of this verb"),
        ("cpus_per_task=2", "is --cpus of this verb"),
        ("gpus-per-node=1", "is --gpus of this verb"),
    ],
)
def test_options_that_the_bookkeeping_stands_on_are_refused(text, shown):
    with pytest.raises(ConfigError, match=shown) as caught:
        _options([text])
    assert str(caught.value).startswith(f"--option {text!r} ")


def test_other_options_are_those_of_sbatch(slurm):
    given = ("exclusive", "--no-requeue", "gpus=2", "mem-per-cpu=2G", "time-min=5", "mail_type=END")
    submit("--on", "slurm", *(word for text in given for word in ("--option", text)))
    lines = {line for line in slurm.scripts["41"].splitlines() if line.startswith("#SBATCH")}
    names = ("exclusive", "no-requeue", "gpus=2", "mem-per-cpu=2G", "time-min=5", "mail-type=END")
    assert {f"#SBATCH --{name}" for name in names} <= lines


def test_too_many_processes_are_refused(home, monkeypatch):
    monkeypatch.setattr("perturbfm_core.pipeline.suite_submit._MOST_PROCESSES", 2)
    monkeypatch.setattr("perturbfm_core.pipeline.suite_submit.cores", lambda: 1)
    answer = attempt("suite", "submit", "t", "--on", "local", "--chunk", 1)
    assert (answer.code, "--chunk 1 makes 6 processes at once" in answer.err) == (2, True)


def test_without_slurm_or_a_submission_it_says_so(home, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    answer = attempt("suite", "submit", "t", "--on", "slurm")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "Slurm" in answer.err or "slurm" in answer.err
    answer = attempt("suite", "logs", "t")
    assert answer.err.startswith("error: no task of suite 't' was ever submitted")
    answer = attempt("suite", "task", "t", "x", "--first", 0)
    assert "SLURM_ARRAY_TASK_ID is not set" in answer.err


# ---- this host -------------------------------------------------------------------------------------------------


def wait_until_over(seconds: float = 120) -> list:
    deadline = time.monotonic() + seconds
    while any(t.is_live for t in tasks_of(ArtifactStore(), "t")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return tasks_of(ArtifactStore(), "t")


def has_ended(pid: str) -> bool:
    try:
        return os.waitpid(int(pid), os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


@pytest.mark.no_cover
def test_four_cells_in_two_tasks_one_killed_and_submitted_again_are_four_runs(home, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    only = ("--only", "split=context", "--only", f"split={fold()}")
    made = submit("--on", "local", "--chunk", 2, *only)
    assert (made["submitted"], made["tasks"]) == (4, 2)
    os.killpg(int(made["jobs"][0]), signal.SIGKILL)
    tasks = wait_until_over()
    assert [(t.state, len(t.cells)) for t in tasks] == [("lost", 2), ("done", 2)]
    again = submit("--on", "local", "--chunk", 2, *only)
    assert (again["done"], again["submitted"], again["tasks"]) == (2, 2, 1)
    assert [t.state for t in wait_until_over()] == ["lost", "done", "done"]
    assert len(ArtifactStore().run_dirs()) == 4
    assert submit("--on", "local", *only)["submitted"] == 0
    deadline = time.monotonic() + 60
    while not has_ended(again["refresh"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    card = json.loads(Path("runs/scorecards/t/scorecard.json").read_text())
    assert {e["entry"] for e in card["entries"]} == {"control_only", "global_mean"}
    assert Path("runs/leaderboard.duckdb").is_file()


def fold() -> str:
    """Return the key of the first fold of the suite."""
    return next(r["split"] for r in status()["rows"] if ".combo_ood." in r["split"])


def test_cancelled_processes_are_gone_and_their_cells_missing(home):
    made = submit("--on", "local", "--chunk", 3, "--setup", "sleep 300")
    assert states() == ["running"] * 2
    assert status()["running"] == 6
    assert perturbfm("suite", "cancel", "t", "--json").json["cancelled"] == 2
    assert all(has_ended(pid) for pid in (*made["jobs"], made["refresh"]))
    assert states() == ["cancelled"] * 2
    assert status()["missing"] == 6
    assert perturbfm("suite", "cancel", "t", "--json").json["cancelled"] == 0


def test_a_failing_setup_is_in_the_log(home):
    made = submit("--on", "local", "--chunk", 6, "--setup", "no_such_module load x")
    (task,) = wait_until_over()
    assert task.state == "lost"
    assert "no_such_module" in perturbfm("suite", "logs", "t", "control_only").out
    while not has_ended(made["refresh"]):
        time.sleep(0.1)


@pytest.fixture
def victim() -> Iterator[subprocess.Popen]:
    """Run a process that no submission has to do with, the head of its group."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("boot", ["loginnode7@deadbeef", "loginnode7", "loginnode7-4026532001@0"])
def test_processes_of_another_host_are_not_those_of_this_one(tmp_path, victim, boot):
    home = ArtifactStore(tmp_path, tmp_path / "splits")
    folder = home.jobs / "demo/id"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(
        json.dumps(PLAN | {"suite": "demo", "on": "local", "boot": boot, "time": time.time()})
    )
    (folder / "started.json").write_text(
        json.dumps({"jobs": [[str(victim.pid), 0, 1]], "refresh": str(victim.pid)})
    )
    host = boot.partition("@")[0]
    (task,) = tasks_of(home, "demo")
    assert (task.state, task.is_live) == ("unknown", True)
    assert f"on host {host};" in task.reason
    said = f"task runs on host {host}; cancel it there"
    with pytest.raises(ClusterError, match=said):
        cancel_tasks(home, "demo")
    with pytest.raises(ClusterError, match=said):
        end_processes({str(victim.pid): read_submission(folder)})
    assert victim.poll() is None
    assert not (folder / "task-0000.json").exists()


def test_what_runs_here_is_cancelled_beside_what_runs_elsewhere(home, victim):
    made = submit("--on", "local", "--chunk", 6, "--setup", "sleep 300")
    other = Path("runs/.jobs/t/20000101-000000-aaaa")
    other.mkdir()
    (other / "submission.json").write_text(json.dumps(PLAN | {"on": "local", "boot": "loginnode7@x"}))
    (other / "started.json").write_text(json.dumps({"jobs": [[str(victim.pid), 0, 1]]}))
    answer = attempt("suite", "cancel", "t")
    assert (answer.code, "loginnode7; cancel it there" in answer.err) == (2, True)
    assert answer.err.endswith("; 1 other tasks were cancelled\n")
    assert all(has_ended(pid) for pid in (*made["jobs"], made["refresh"]))
    assert [t.state for t in tasks_of(ArtifactStore(), "t")] == ["unknown", "cancelled"]
    assert victim.poll() is None
