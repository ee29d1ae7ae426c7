"""Suites from the command line: run, resumed, interrupted, asked for their state."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.ridge import RidgeRegression
from perturbfm_core.pipeline import suite_run
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.command import attempt, perturbfm
from tests.support.small_suite import counts


def test_every_cell_is_a_line_with_the_time_left(ran):
    said = json.loads((ran / "said.json").read_text())
    lines = said["err"].splitlines()
    assert len(lines) == 9
    assert re.fullmatch(
        r"\[1/9\] made: tiny\.context_ood\.[0-9a-f]{12} control_only seed 0, [\d.]+ s, about .* left",
        lines[0],
    )
    assert re.fullmatch(r"\[9/9\] made: tiny\.combo_ood\.[0-9a-f]{12} ridge seed 0, [\d.]+ s", lines[8])
    assert "made=9" in said["out"]


def test_what_is_done_is_found_and_published_again_only_when_asked(ran):
    runs = len(ArtifactStore().run_dirs())
    answer = attempt("suite", "run", "t", "--json")
    assert (answer.code, answer.json["found"], answer.json["made"]) == (0, 9, 0)
    assert {c["state"] for c in answer.json["cells"]} == {"found"}
    assert len(ArtifactStore().run_dirs()) == runs == 9
    answer = attempt("suite", "run", "t", "--again", "--only", "entry=ridge,split=context", "--json").json
    assert (answer["made"], len(ArtifactStore().run_dirs())) == (1, 10)


def test_status_knows_done_missing_and_not_applicable(ran, monkeypatch):
    assert counts() == {"cells": 9, "done": 9, "missing": 0, "failed": 0, "not_applicable": 0}
    gone = next(p for p in ArtifactStore().run_dirs() if "_ridge_" in p.name)
    (gone / "report.html").unlink()
    edited = next(p for p in ArtifactStore().run_dirs() if "_global_mean_" in p.name)
    with (edited / "metrics.json").open("a") as handle:
        handle.write(" ")
    assert counts() == {"cells": 9, "done": 7, "missing": 2, "failed": 0, "not_applicable": 0}
    perturbfm("suite", "scorecard", "t", "--out", "card")
    whys = [
        score["reason"]
        for entry in json.loads(Path("card/scorecard.json").read_text())["entries"]
        for score in entry["tasks"].values()
        if str(score["reason"]).startswith("no run")
    ]
    # Alone on its board, or with another fold.
    assert whys
    assert {w.removesuffix(" (1 of 2 cells)") for w in whys} == {"no run by the present code and inputs"}
    monkeypatch.setattr(
        MODELS.get("control_only"), "requires", MODELS.get("control_only").requires.__class__(min_contexts=9)
    )
    assert counts()["not_applicable"] == 3
    rows = perturbfm("suite", "status", "t", "--state", "n/a", "--json").json["rows"]
    assert {r["reason"] for r in rows} == {
        "needs 9 train contexts, there are 1",
        "needs 9 train contexts, there are 2",
    }
    answer = attempt("suite", "run", "t")
    assert answer.code == 0
    assert answer.err.count("not applicable: ") == 3
    assert answer.values["not_applicable"] == "3"
    assert attempt("suite", "status", "t", "--state", "broken").code == 2


def test_status_fits_and_writes_nothing(fresh, monkeypatch):
    monkeypatch.setattr(RidgeRegression, "fit", lambda *_: pytest.fail("fitted"))
    before = sorted(str(p) for p in fresh.rglob("*"))
    assert counts()["missing"] == 9
    assert sorted(str(p) for p in fresh.rglob("*")) == before


def test_a_failing_cell_stops_no_other_and_is_run_again(fresh, monkeypatch):
    plain = RidgeRegression.fit

    def fails(self, view, seed):
        message = "no way"
        raise ZeroDivisionError(message)

    monkeypatch.setattr(RidgeRegression, "fit", fails)
    answer = attempt("suite", "run", "t", "--only", "split=context")
    assert answer.code == 1
    last = answer.err.splitlines()[-2:]
    assert re.fullmatch(
        r"failed: tiny\.context_ood\.[0-9a-f]{12} ridge seed 0: ZeroDivisionError: no way", last[0]
    )
    assert last[1].startswith("1 of 3 cells failed; tracebacks are in runs/.failures")
    assert (answer.values["made"], answer.values["failed"]) == ("2", "1")
    (row,) = perturbfm("suite", "status", "t", "--state", "failed", "--json").json["rows"]
    assert (row["entry"], row["reason"]) == ("ridge", "ZeroDivisionError: no way")
    (file,) = Path("runs/.failures").glob("*.json")
    assert any("raise ZeroDivisionError" in line for line in json.loads(file.read_text())["traceback"])
    gaps = {
        e["entry"]: e["tasks"] for e in json.loads(Path(answer.values["scorecard"]).read_text())["entries"]
    }
    (reason,) = {t["reason"] for b, t in gaps["ridge"].items() if ".context_ood." in b}
    assert reason == "failed: ZeroDivisionError: no way"
    monkeypatch.setattr(RidgeRegression, "fit", plain)
    answer = attempt("suite", "run", "t", "--only", "split=context", "--json")
    assert (answer.code, answer.json["found"], answer.json["made"]) == (0, 2, 1)
    assert counts("--only", "split=context")["failed"] == 0
    assert list(Path("runs/.failures").glob("*.json")) == []


def test_an_interrupt_says_how_to_go_on_and_leaves_nothing_half_written(fresh, monkeypatch):
    plain, calls = suite_run.run_cell, []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args, **options)

    monkeypatch.setattr(suite_run, "run_cell", interrupted)
    answer = attempt("suite", "run", "t")
    assert answer.code == 130
    assert answer.err.splitlines()[-1] == (
        "interrupted after 1 of 9 cells; nothing half-written was left: the same command goes on where it stopped "
        "(`perturbfm suite status t` shows what is done)"
    )
    assert counts()["done"] == 1
    monkeypatch.setattr(suite_run, "run_cell", plain)
    answer = attempt("suite", "run", "t", "--only", "split=context", "--json").json
    assert (answer["found"], answer["made"]) == (1, 2)


def test_demo_is_the_same_suite_without_lines(ran):
    answer = perturbfm("demo", "--suite", "t")
    assert answer.values["experiments"] == "9"
    assert answer.values["scorecard_page"] == "runs/scorecards/t/scorecard.html"
    assert len(ArtifactStore().run_dirs()) == 9


def test_run_of_a_board_runs_all_its_folds(ran):
    boards = {
        row["board"] for row in perturbfm("splits", "list", "--json").json if row["kind"] == "combo_ood"
    }
    (board,) = boards
    found = perturbfm("run", "--split", board, "--entry", "ridge", "--json").json["runs"]
    assert [r["existing"] for r in found] == [True, True]
    assert len({r["split_hash"] for r in found}) == 2
    one = perturbfm("run", "--split", found[0]["split_hash"], "--entry", "ridge", "--json").json
    assert one["run_id"] == found[0]["run_id"]


@pytest.mark.parametrize(("more", "counts"), [((), "suite"), (("--dry-run",), "other")])
def test_what_a_submission_finds_done_was_asked_for_last(ran, more, counts):
    (split,) = (r["hash"] for r in perturbfm("splits", "list", "--json").json if r["kind"] == "context_ood")
    words = ("--split", split, "--entry", "ridge", "--name", "ridge", "--param", "alphas=[5.0]")
    runs = {"other": perturbfm("run", *words).values["run_id"]}
    cells = perturbfm("suite", "status", "t", "--json").json["rows"]
    (runs["suite"],) = {
        Path(r["run"]).name for r in cells if r["entry"] == "ridge" and "context" in r["split"]
    }
    answer = perturbfm("suite", "submit", "t", "--on", "local", *more, "--json").json
    assert (answer["done"], answer["submitted"]) == (9, 0)
    # With nothing to submit, no job would rank.
    assert ("leaderboard" in answer) == (counts == "suite")
    if counts == "other":
        perturbfm("leaderboard", "refresh")
    sql = f"SELECT run_id FROM runs WHERE counted AND entry = 'ridge' AND split_hash LIKE '{split}%'"
    assert database.query(ArtifactStore(), sql)["run_id"].tolist() == [runs[counts]]


# ---- several processes -----------------------------------------------------------------------------------------


def test_two_processes_make_the_same_cells(fresh):
    only = ("--only", "split=context,entry=control_only", "--only", "split=context,entry=global_mean")
    answer = attempt("suite", "run", "t", "--jobs", "2", *only, "--json")
    assert (answer.code, answer.json["made"]) == (0, 2)
    assert [c["entry"] for c in answer.json["cells"]] == ["control_only", "global_mean"]
    assert all(Path(c["run"], "report.html").is_file() for c in answer.json["cells"])
