"""``perturbfm report``: the report of a run found, opened, and made anew."""

from __future__ import annotations

import ast
import json
import re
import shutil
import webbrowser
from pathlib import Path

import pytest

from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_record import is_whole, read_run_record
from tests.support.command import VARIABLES, Work, attempt, perturbfm
from tests.support.paths import REPO
from tests.support.prediction_tables import line, table_of


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Make the folder of `Work` without a leaderboard, which no report needs."""
    path = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        size = ("--n-obs", 200, "--n-genes", 50, "--n-contexts", 3, "--n-perts", 5)
        perturbfm("data", "make-synth", "--out", "D", *size)
        held = ("--spec", "context_ood", "--holdout-context", "C0")
        split = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
        run = perturbfm("train", "global_mean", "--data", "D", "--split", split).values["run_id"]
    return Work(path, split, run)


@pytest.fixture
def asked(monkeypatch):
    """Return the addresses that a browser was asked for."""
    found = []
    monkeypatch.setattr(webbrowser, "open", lambda address: found.append(address) or True)
    return found


def text_of(file):
    """Return what a reader sees of a report."""
    return " ".join(
        re.sub(
            r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", Path(file).read_text(), flags=re.DOTALL
        ).split()
    )


def test_the_published_report_is_found_by_a_prefix(work, asked):
    found = perturbfm("report", work.run[:12])
    page = work.path / "runs" / work.run / "report.html"
    assert Path(found.values["report"]).resolve() == page.resolve()
    assert (found.values["made"], found.values["opened"]) == ("false", "false")
    assert asked == []
    assert perturbfm("report", f"runs/{work.run}", "--json").json["run_id"] == work.run


def test_open_shows_it_in_a_browser(work, asked):
    found = perturbfm("report", work.run, "--open")
    assert asked == [Path(found.values["report"]).resolve().as_uri()]
    assert found.values["opened"] == "true"


def test_without_a_browser_the_path_is_said(work, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda _address: False)
    found = perturbfm("report", work.run, "--open", warns=True)
    assert "no browser could be started; open " in found.err
    assert found.values["opened"] == "false"


def test_a_report_made_anew_knows_later_baselines(work, asked):
    assert "no other baseline with a value was run on this split" in text_of(
        work.path / "runs" / work.run / "report.html"
    )
    perturbfm("run", "--data", "D", "--split", work.split, "--entry", "additive")
    perturbfm("run", "--data", "D", "--split", work.split, "--entry", "ridge")
    found = perturbfm("report", work.run, "--out", "again.html", "--open")
    text = text_of("again.html")
    assert "the best of" in text or "the only other baseline" in text
    assert asked == [(work.path / "again.html").as_uri()]
    assert found.values["made"] == "true"
    folder = work.path / "runs" / work.run
    assert is_whole(folder, read_run_record(folder))


def test_a_submission_has_a_report_that_can_be_made_anew(work):
    table_of(work, 0.2).to_csv("mine.csv")
    mine = perturbfm(*line(work, "mine.csv", "mine", "--note", "<b>a line</b>")).values["run_id"]
    perturbfm("report", mine, "--out", "mine.html")
    first, again = text_of(work.path / "runs" / mine / "report.html"), text_of("mine.html")
    assert "&lt;b&gt;a line&lt;/b&gt;" in again
    assert "No training is recorded for this run." in again
    # Nothing was run in between, so that both say the same.
    assert first == again


def test_data_are_named_by_directory_name_or_content(work):
    content = read_json(Path("D/meta.json"))["metadata"]["content_sha256"]
    shutil.copytree("D", "data/screen")
    for i, given in enumerate(("D", "screen", content[:10])):
        perturbfm("report", work.run, "--out", f"{i}.html", "--data", given)
        assert Path(f"{i}.html").is_file()


def test_every_verb_takes_data_alike():
    """A plain path would refuse names and content hashes."""
    plain = []
    for file in sorted((REPO / "perturbfm_core/cli").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option":
                given = [a.value for a in node.args if isinstance(a, ast.Constant)]
                parsers = [ast.unparse(k.value) for k in node.keywords if k.arg == "parser"]
                if "--data" in given and parsers != ["data_place"]:
                    plain.append(file.name)
    assert plain == []


def test_what_cannot_be_done_is_one_line(work):
    cases = [
        (("nothing",), "no run in"),
        ((work.run, "--force"), "belong to --out FILE"),
        ((work.run, "--out", "x.pdf"), "ends in .html"),
        ((work.run, "--out", f"runs/{work.run}/other.html"), "which never changes"),
        ((work.run, "--out", "a.html", "--data", "nowhere"), "nowhere"),
    ]
    for options, words in cases:
        found = attempt("report", *options)
        assert found.code == 2
        assert words in found.err
        assert len(found.err.splitlines()) == 1
    Path("a.html").write_text("mine")
    assert "already exists" in attempt("report", work.run, "--out", "a.html").err
    assert Path("a.html").read_text() == "mine"
    perturbfm("report", work.run, "--out", "a.html", "--force")
    page = work.path / "runs" / work.run / "report.html"
    page.write_text("edited")
    assert "is not as it was published" in perturbfm("report", work.run, warns=True).err
    page.unlink()
    assert "has no report.html; make it anew with --out FILE" in attempt("report", f"runs/{work.run}").err
    scores = work.path / "runs" / work.run / "scores.parquet"
    scores.write_bytes(b"nothing")
    assert "is not whole" in attempt("report", f"runs/{work.run}", "--out", "b.html").err
    assert json.loads((work.path / "runs" / work.run / "config.json").read_text())["run_id"] == work.run
