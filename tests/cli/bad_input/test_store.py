"""Catalog files, runs and leaderboards that are damaged or missing are refused in one line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.command import attempt, perturbfm
from tests.support.refusals import refuse


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("selec 1", "SQL failed: Parser Error"),
        ("select * from nowhere", "SQL failed: .*nowhere.* tables: scores, runs, splits, datasets"),
        ("select nothing from runs", 'SQL failed: .*"nothing" not found'),
        ("drop table scores", "SQL failed: .*read-only"),
        ("delete from runs", "SQL failed: .*read-only"),
        ("create table mine as select 1", "SQL failed: .*read-only"),
        ("copy (select 1) to 'stolen.csv'", "SQL failed: .*disabled"),
        ("select * from read_csv('D/meta.json')", "SQL failed: .*disabled"),
        ("attach 'other.duckdb'", "SQL failed: .*disabled"),
        ("set enable_external_access = true", "SQL failed"),
        ("select 1 / 'a'", "SQL failed"),
    ],
)
def test_bad_sql(work, statement, message):
    refuse(["leaderboard", "sql", statement], message, work.path)


def test_no_leaderboard_yet(tmp_path):
    for argv in (["leaderboard", "show"], ["leaderboard", "sql", "select 1"]):
        refuse(
            argv,
            "there is no leaderboard at runs/leaderboard.duckdb; run `perturbfm leaderboard refresh`",
            tmp_path,
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "mine.yaml is not valid YAML"),
        ("name: mine\nname: mine\n", "mine.yaml is not valid YAML: 'name' occurs twice in one table"),
        (
            "a: &a [1]\nb: [*a, *a]\n",
            r"mine.yaml is not valid YAML: anchors and aliases are not read \(line 1\)",
        ),
        ("name: mine\ndescription: x\nmodel: ridge\nseeds: [" + "9" * 5000 + "]\n", "is beyond 64 bits"),
        ("name: mine\ndescription: x\nmodel: ridge\nparams: {alphas: [.nan]}\n", "nan is not finite"),
        ("name: mine\ndescription: x\nmodel: !!str ridge\n", "tags such as"),
        ("- a\n- b\n", "mine.yaml is not a valid ModelEntry"),
        ("", "mine.yaml is not a valid ModelEntry"),
        ("[" * 20_000, "mine.yaml is not valid YAML"),
        (
            "name: other\ndescription: x\nmodel: ridge\n",
            "names itself 'other'; file name and name must agree",
        ),
        ("name: mine\ndescription: x\n", "is not a valid ModelEntry: model: Field required"),
        ("name: mine\ndescription: x\nmodel: ridge\ncolour: red\n", "colour: Extra inputs are not permitted"),
        ("name: mine\ndescription: x\nmodel: ridge\nseeds: [1, 1]\n", "seeds must be one or more different"),
    ],
    ids=[
        "yaml",
        "twice",
        "aliases",
        "digits",
        "nan",
        "tag",
        "list",
        "empty",
        "deep",
        "stem",
        "field",
        "extra",
        "seeds",
    ],
)
def test_bad_catalog_files(work, text, message):
    path = work.path / ".perturbfm/catalog/models/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    refuse(["models", "list"], message, work.path)
    refuse(["run", "--data", "D", "--split", work.split, "--entry", "mine"], message, work.path)


def test_catalog_name_taken_by_the_packaged_one(work):
    path = work.path / ".perturbfm/catalog/models/ridge.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("name: ridge\ndescription: x\nmodel: ridge\n")
    refuse(["models", "list"], "repeats the name 'ridge', which the catalog already has", work.path)


def test_entry_that_cannot_run_on_the_split(work, monkeypatch):
    from perturbfm_core.models.base import MODELS, Requires

    monkeypatch.setattr(MODELS.get("ridge"), "requires", Requires(min_contexts=3))
    argv = ["run", "--data", "D", "--split", work.split, "--entry", "ridge"]
    refuse(
        argv,
        "entry 'ridge' is not applicable to split d.context_ood.* needs 3 train contexts, there are 2",
        work.path,
    )


def test_damaged_run_is_left_out_of_the_leaderboard(work):
    path = Path(f"runs/{work.run}/scores.parquet")
    path.unlink()
    path.write_bytes(b"PAR1 and nothing else")
    answer = attempt("leaderboard", "refresh")
    assert answer.code == 0
    assert "Traceback" not in answer.err
    assert answer.err.count("\n") == 1
    assert re.search("scores.parquet .*cannot be read", answer.err)
    assert perturbfm("leaderboard", "sql", "select count(*) as n from runs", "--json").json == [{"n": 0}]


def test_a_suite_with_an_unknown_entry_or_data_set_leaves_nothing(work):
    path = work.path / ".perturbfm/catalog/suites/mine.yaml"
    path.parent.mkdir(parents=True)
    grid = "grid: [{dataset: demo, splits: [{kind: iid}]}]"
    path.write_text(f"name: mine\ndescription: x\nmodels: [ridge, ridgy]\n{grid}\n")
    refuse(["demo", "--suite", "mine"], "unknown entry 'ridgy'; known: additive", work.path)


def test_conditions_that_are_no_table(work):
    Path("huge.csv").touch()
    os.truncate("huge.csv", 3 << 30)
    Path("nul.csv").write_bytes(b"perturbation\0,context\nA,B\n")
    os.mkfifo("pipe.csv")
    for name, message in (
        ("huge.csv", "is no table"),
        ("nul.csv", "is no table"),
        ("pipe.csv", "does not exist|is a pipe"),
    ):
        argv = [
            "predict",
            "--run",
            work.run,
            "--split",
            work.split,
            "--batch",
            name,
            "--out",
            "p.parquet",
            "--data",
            "D",
        ]
        answer = attempt(*argv)
        assert answer.code == 2
        assert re.search(message, answer.err), answer.err
        assert not Path("p.parquet").exists()
