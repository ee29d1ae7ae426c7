"""Options of `perturbfm suite submit`: which are refused, and which sbatch is given."""

from __future__ import annotations

import pytest

from perturbfm_core.cli.suite_submit import _options
from perturbfm_core.errors import ConfigError
from tests.support.command import attempt
from tests.support.submitted_suite import submit


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
def test_wrong_options_are_refused_in_one_line(slurm, words, message):
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
