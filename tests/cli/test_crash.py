"""A fault of the program is one line, exit code 70 and a file with the traceback; odd paths are no fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perturbfm_core.cli import crash
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm


class WeirdError(Exception):
    """An error that nobody expects."""


@pytest.fixture
def broken(monkeypatch):
    """Let ``splits list`` fail."""

    def fail(*_):
        raise WeirdError("first line\nsecond \x1b[31mline " + "x" * 1000)

    monkeypatch.setattr("perturbfm_core.cli.splits.read_index", fail)


def test_one_line_and_a_file(tmp_path, broken):
    answer = attempt("splits", "list")
    assert (answer.code, answer.out) == (70, "")
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("unexpected error: WeirdError: first line second \\x1b[31mline xxx")
    assert "; this is a fault of perturbfm; details in " in answer.err
    assert answer.err.endswith("; rerun with --debug for the traceback\n")
    (file,) = (tmp_path / "crashes").iterdir()
    assert str(file.name) in answer.err
    text = file.read_text()
    assert "Traceback" in text
    assert "command: ['perturbfm', 'splits', 'list']" in text
    assert "perturbfm: " in text
    assert "numpy: 2" in text


def test_debug_shows_the_traceback_of_a_fault(tmp_path, broken):
    answer = attempt("splits", "list", "--debug")
    assert answer.code == 70
    assert "Traceback (most recent call last)" in answer.err
    assert answer.err.splitlines()[-1].startswith("unexpected error: WeirdError")


@pytest.mark.parametrize("where", ["splits.read_index", "main.defer", "main._Verbs.parse_args"])
def test_an_interrupt_is_one_line_wherever_it_comes(monkeypatch, where):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"perturbfm_core.cli.{where}", interrupt)
    answer = attempt("splits", "list")
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "interrupted; nothing half-written was left\n"


@pytest.mark.parametrize("argv", [("--out=~/D",), ("--out", "~/D"), ("--out", "D")])
def test_a_tilde_that_no_shell_has_replaced_makes_no_folder_of_that_name(tmp_path, monkeypatch, argv):
    if argv[-1] == "D":
        monkeypatch.setenv("PERTURBFM_SPLIT_DIR", "~/splits")
    answer = attempt("data", "make-synth", "--n-obs", "60", "--n-perts", "4", *argv)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "~ would be a folder of that name, as no shell has replaced it" in answer.err
    assert not list(tmp_path.iterdir())


def test_the_temporary_folder_is_second(tmp_path, broken, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "file/home"))
    monkeypatch.setattr(crash.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    answer = attempt("splits", "list")
    assert answer.code == 70
    (file,) = (tmp_path / "tmp/perturbfm/crashes").iterdir()
    assert str(file) in answer.err


def test_a_fault_where_nothing_can_be_written_is_one_line_all_the_same(tmp_path, broken, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERTURBFM_HOME", str(tmp_path / "file/home"))
    monkeypatch.setattr(crash.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    answer = attempt("splits", "list")
    assert answer.code == 70
    assert answer.err.count("\n") == 1
    assert "details" not in answer.err


@pytest.mark.parametrize(
    "error", [KeyError("x"), ValueError(""), RecursionError("deep"), AssertionError(), StopIteration()]
)
def test_any_exception(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("perturbfm_core.cli.splits.read_index", fail)
    answer = attempt("splits", "list")
    assert answer.code == 70
    assert answer.err.startswith(f"unexpected error: {type(error).__name__}")


def test_too_little_memory_is_no_fault(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("perturbfm_core.cli.splits.read_index", fail)
    answer = attempt("splits", "list")
    assert (answer.code, answer.err) == (
        2,
        "error: not enough memory (no size given); use a smaller file or a larger machine\n",
    )


ODD = [
    "a b",
    "a?b",
    "a*b",
    "a[1]b",
    "a'b",
    'a"b',
    "a\nb",
    "a\\b",
    "a::b",
    "zip:x",
    "%20",
    "~x",
    "a;b",
    "ä#b",
    "{x}",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_files_and_folders(tmp_path, name):
    (tmp_path / name).mkdir()
    size = ("--n-obs", 120, "--n-genes", 24, "--n-perts", 4, "--n-combos", 2)
    for storage in ("npz", "zarr"):
        place = tmp_path / name / storage
        made = perturbfm("data", "make-synth", "--out", place, "--name", "d", *size, "--storage", storage)
        assert (
            perturbfm("data", "info", place, "--verify").values["content_sha256"]
            == made.values["content_sha256"]
        )
    assert not list(tmp_path.glob("a.wal*"))
    table = tmp_path / name / f"{name}.csv"
    table.write_text("source,target\nG00,G01\nG01,G02\n")
    graph = tmp_path / name / f"{name}.npz"
    perturbfm("graphs", "build", "edges", "--name", "e", "--source", table, "--directed", "--out", graph)
    assert perturbfm("graphs", "show", "e").values["edges"] == "2"
    (tmp_path / name / "c.csv").write_text("condition,fold\nG00,test\n")


@pytest.mark.parametrize("name", ["a?b", "a\\b", "a'b", "a\nb", "a*b"])
def test_odd_names_of_the_home(work, tmp_path, monkeypatch, name):
    home = tmp_path / name
    home.mkdir()
    (tmp_path / "runs").rename(home / "runs")
    monkeypatch.setenv("PERTURBFM_HOME", str(home))
    (home / "runs/leaderboard.duckdb").unlink()
    answer = attempt("leaderboard", "refresh")
    if "?" in name or "\\" in name:
        assert answer.code == 2
        assert "which DuckDB does not open; move the folder" in answer.err
        assert answer.err.count("\n") == 1
    else:
        assert answer.code == 0, answer.err
        assert perturbfm("leaderboard", "sql", "select count(*) as n from runs", "--json").json == [{"n": 1}]
    assert ArtifactStore().home == home


def test_a_path_that_is_not_utf8_is_refused(tmp_path, monkeypatch):
    name = os.fsdecode(b"a\xffb")
    answer = attempt("data", "info", name)
    assert answer.code == 2
    assert answer.err == f"error: argument {name!r} is not UTF-8; rename the file or folder\n"
    monkeypatch.setenv("PERTURBFM_HOME", name)
    assert "PERTURBFM_HOME" in attempt("splits", "list").err


@pytest.mark.parametrize("verb", [("data", "info"), ("splits", "show"), ("export", "RUN", "--out")])
def test_a_loop_of_links_is_no_fault(work, verb):
    Path("loop").symlink_to("loop")
    answer = attempt(*(work.run if word == "RUN" else word for word in verb), "loop")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
