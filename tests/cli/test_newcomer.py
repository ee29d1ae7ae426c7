"""What a newcomer sees: data by name, what splits hold out, boards between floor and ceiling, lines that fit."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from perturbfm_core.cli.boards import board_lines
from perturbfm_core.cli.output import number, shortened
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.leaderboard.headline import HEADLINE, headline_of
from tests.support.command import VARIABLES, attempt, perturbfm

pytestmark = pytest.mark.slow

SIZE = ("--n-obs", 240, "--n-genes", 20, "--n-contexts", 3, "--n-perts", 6, "--n-combos", 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home with data set `small`, splits of five kinds, and runs of two entries on one board."""
    place = tmp_path_factory.mktemp("newcomer")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(place)
        perturbfm("data", "make-synth", "--out", "data/small", *SIZE)
        for spec in (
            ["context_ood", "--holdout-context", "C1"],
            ["perturbation_ood", "--folds", 2],
            ["combo_ood", "--folds", 2, "--fold", 0],
            ["iid"],
            ["context_ood", "--holdout-context", "C0", "--holdout-context", "C2"],
        ):
            perturbfm("splits", "create", "--data", "small", "--spec", *spec, "--no-bounds")
        half = _split("perturbation_ood")
        for entry in ("control_only", "global_mean"):
            perturbfm("run", "--split", half, "--entry", entry)
        perturbfm("leaderboard", "refresh")
    return place


def _split(kind: str) -> str:
    rows = perturbfm("splits", "list", "--json").json
    return str(next(r["split_hash"] for r in rows if r["kind"] == kind))


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of the home, as the current folder."""
    place = tmp_path / "home"
    shutil.copytree(made, place, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(place)
        yield place


# ---- data by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["name", "path", "id", "absolute"])
def test_data_takes_a_name_an_id_or_a_path(home: Path, form: str) -> None:
    content = perturbfm("data", "info", "data/small", "--json").json["content_sha256"]
    given = {"name": "small", "path": "data/small", "id": content[:10], "absolute": str(home / "data/small")}[
        form
    ]
    assert perturbfm("data", "info", given, "--json").json["content_sha256"] == content
    out = f"template-{form}.csv"
    perturbfm("predictions", "template", "--data", given, "--split", _split("context_ood"), "--out", out)
    assert Path(out).is_file()


def test_data_are_those_of_the_split_where_none_are_named(home: Path) -> None:
    split = _split("context_ood")
    perturbfm("predictions", "template", "--split", split, "--out", "mine.csv")
    perturbfm("train", "control_only", "--split", split)
    assert perturbfm("tune", "linear", "--split", split, "--trials", 1).values["split_hash"] == split


@pytest.mark.parametrize(
    ("given", "said"),
    [("smalll", "did you mean 'small'"), ("nowhere", "known names: "), ("1234567", "known names: ")],
)
def test_an_unknown_name_is_one_line_that_says_which_are_known(home: Path, given: str, said: str) -> None:
    answer = attempt("splits", "create", "--data", given, "--spec", "iid")
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 1


# ---- splits -----------------------------------------------------------------------------------------------------


def test_splits_say_what_they_hold_out(home: Path) -> None:
    rows = perturbfm("splits", "list", "--json").json
    said = {(r["kind"], r["fold"]): r["held_out"] for r in rows}
    contexts = [r["held_out"] for r in rows if r["kind"] == "context_ood"]
    assert sorted(contexts) == ["2 contexts: C0, C2", "context C1"]
    assert said["perturbation_ood", 0].startswith("3 genes: ")
    assert said["combo_ood", 0].startswith("2 combinations: ")
    assert said["iid", None] == "20% of the rows of every condition"
    lines = perturbfm("splits", "list").out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.endswith("2 contexts: C0, C2") for line in lines)


def test_test_conditions_are_given_as_csv(home: Path) -> None:
    split = _split("combo_ood")
    rows = list(csv.DictReader(io.StringIO(perturbfm("splits", "show", split, "--csv").out)))
    whole = perturbfm("splits", "show", split, "--json").json
    assert [r["condition"] for r in rows] == sorted(whole["folds"]["table"]["test"])
    assert {r["condition"].split("|")[1] for r in rows} == {r["pert_id"] for r in rows}
    listed = list(csv.DictReader(io.StringIO(perturbfm("splits", "list", "--csv").out)))
    assert {r["split_hash"] for r in listed} == {
        r["split_hash"] for r in perturbfm("splits", "list", "--json").json
    }
    refused = attempt("splits", "show", _split("iid"), "--csv")
    assert (refused.code, "rows of every condition" in refused.err) == (2, True)


# ---- boards -----------------------------------------------------------------------------------------------------


def test_a_board_with_some_of_its_folds_says_so_and_is_not_ranked(home: Path) -> None:
    text = perturbfm("leaderboard", "show").out
    assert "1 of 2 folds" in text
    assert "incomplete, so not ranked" in text
    assert "not ranked: 1 of 2 folds" in text
    lines = text.splitlines()
    (head,) = [i for i, x in enumerate(lines) if x.split()[:2] == ["rank", "entry"]]
    assert all(x.split()[0] == "-" for x in lines[head + 1 : head + 3])
    # The other fold makes it whole.
    for row in perturbfm("splits", "list", "--json").json:
        if row["kind"] == "perturbation_ood" and row["fold"] == 1:
            for entry in ("control_only", "global_mean"):
                perturbfm("run", "--split", row["split_hash"], "--entry", entry)
    perturbfm("leaderboard", "refresh")
    text = perturbfm("leaderboard", "show").out
    assert "2 of 2 folds" in text
    assert "not ranked" not in text
    assert any(x.split()[:1] == ["1"] for x in text.splitlines())


def test_every_dash_has_a_reason_and_lines_fit(home: Path) -> None:
    for metric in (HEADLINE, "linear_paper.l2", "perturbench.cosine_logfc", "uncertainty.nll", "delta.rmse"):
        lines = perturbfm("leaderboard", "show", "--metric", metric).out.splitlines()
        notes = {x.split("]")[0] + "]" for x in lines if x.startswith("[")}
        body = [x for x in lines if not x.startswith("[")]
        assert max(map(len, body)) <= 120
        used = {w.strip(",;)") for x in body for w in x.split() if w.startswith("[")}
        assert used == notes
    wide = perturbfm("leaderboard", "show", "--wide").out.splitlines()
    rows = list(csv.DictReader(io.StringIO(perturbfm("leaderboard", "show", "--csv").out)))
    assert len(wide) == 1 + len(rows) == 3


def test_nothing_to_show_says_why(home: Path) -> None:
    shown = perturbfm("leaderboard", "show", "--board", "nope").out
    assert "no board's name contains 'nope'; boards: small.perturbation_ood" in shown
    assert perturbfm("leaderboard", "show", "--board", "nope", "--json").json == []
    assert "the statement gives none" in perturbfm("leaderboard", "sql", "select 1 where false").out
    shutil.rmtree("splits")
    assert "freeze one with" in perturbfm("splits", "list").out


@pytest.mark.parametrize("entry", ["e" * 80, "short"])
@pytest.mark.parametrize("value", [-123456.789, 0.0000123, 0.5])
def test_boards_fit_whatever_stands_in_them(entry: str, value: float) -> None:
    row = {
        "board": "b", "rank": 1, "entry": entry, "value": value, "ci_low": value, "ci_high": value,
        "diff_best_baseline": value, "diff_low": value, "diff_high": value, "best_baseline": "b" * 60,
        "ceiling": value, "ceiling_noise_free": None, "control_mean_floor": None, "train_mean_floor": value,
        "n_conditions": 10, "n_undefined": 3, "n_units": 9, "no_signal": True, "shared_control": True,
        "direction": "max", "folds_done": 2, "folds_total": 5, "reason": None,
    }  # fmt: skip
    lines = list(board_lines(pd.DataFrame([row]), headline_of()))
    body = [x for x in lines if not x.startswith("[")]
    assert max(map(len, body)) <= 120
    assert any("2 of 5 folds" in x for x in body)
    assert any("no signal in the data" in x for x in body)


# ---- text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.123456, "0.1235"), (0.0, "0.0000"), (1.5e-7, "1.500e-07"), (-2.0, "-2.0000"), (3.5e12, "3.500e+12")],
)
def test_numbers_have_four_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_one_column_gives_way_to_the_others() -> None:
    rows = [{"a": "x" * 30, "text": "word " * 40, "b": 1.5}, {"a": "y", "text": "short", "b": 2.0}]
    cut = shortened(rows, "text", 80)
    assert len(cut[0]["text"]) <= 80 - 30 - 6 - 4
    assert cut[0]["text"].endswith("...")
    assert cut[1]["text"] == "short"


def test_every_metric_can_be_shown(home: Path) -> None:
    rows = perturbfm("leaderboard", "sql", "select distinct panel, metric from leaderboard", "--json").json
    some = sorted(f"{r['panel']}.{r['metric']}" for r in rows)[:: max(1, len(rows) // 12)]
    for name in some:
        assert METRICS.get(name).description[:30] in perturbfm("leaderboard", "show", "--metric", name).out
    assert json.loads(perturbfm("leaderboard", "show", "--json").out)
