"""States of submitted tasks as squeue and sacct report them: what is submitted again, cancelled, shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from perturbfm_core.pipeline import slurm_queue
from perturbfm_core.pipeline.suite_tasks import tasks_of
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.submitted_suite import run_task, states, status, submit


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
