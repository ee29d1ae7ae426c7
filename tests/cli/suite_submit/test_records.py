"""Records of submissions and tasks: their order, and damaged ones named with the cure."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from perturbfm_core.errors import StoreError
from perturbfm_core.pipeline import suite_jobs
from perturbfm_core.pipeline.suite_jobs import new_submission, read_submission, submissions
from perturbfm_core.pipeline.suite_tasks import tasks_of
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt
from tests.support.submitted_suite import PLAN, submit


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


def test_a_damaged_record_of_a_submission_is_named(slurm):
    made = submit("--on", "slurm")
    Path("runs/.jobs/t", made["submission"], "submission.json").write_text("{}")
    answer = attempt("suite", "status", "t")
    assert (answer.code, "is no record of a submission" in answer.err) == (2, True)


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
