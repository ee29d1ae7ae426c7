"""Suites from the command line: planned, run, resumed, interrupted, summed up."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from perturbfm_core.catalog.loading import load_catalog, packaged_folder
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.leaderboard import database
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.ridge import RidgeRegression
from perturbfm_core.pipeline import suite as suite_module
from perturbfm_core.pipeline import suite_run
from perturbfm_core.pipeline.dataset import open_dataset
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.suite import plan_suite
from perturbfm_core.pipeline.suite_data import suite_dataset
from perturbfm_core.pipeline.suite_filter import parse_only
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from tests.real.conftest import brief
from tests.support.command import VARIABLES, attempt, perturbfm

ENTRIES = ("control_only", "global_mean", "ridge")
DATA = {
    "name": "tiny",
    "description": "very small",
    "source": "synth",
    "synth": {"n_obs": 240, "n_genes": 20, "n_contexts": 2, "n_perts": 6, "n_combos": 5},
}
SUITE = {
    "name": "t",
    "description": "one unseen context, two folds of pairs",
    "grid": [
        {
            "dataset": "tiny",
            "splits": [
                {"kind": "context_ood", "params": {"holdout": ["C1"]}},
                {"kind": "combo_ood", "folds": 2},
            ],
        }
    ],
    "models": list(ENTRIES),
}


def declare(root: Path, **changes: object) -> None:
    """Write the small data set and suite into a catalog."""
    for name, entry in (("datasets/tiny", DATA), ("suites/t", {**SUITE, **changes})):
        path = root / ".perturbfm/catalog" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(entry))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the suite once, in a folder of its own, and return it."""
    path = tmp_path_factory.mktemp("suite")
    declare(path)
    with pytest.MonkeyPatch.context() as patch, brief("delta"):
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.chdir(path)
        answer = attempt("suite", "run", "t")
        assert answer.code == 0, answer.err
        (path / "said.json").write_text(json.dumps({"out": answer.out, "err": answer.err}))
    return path


@pytest.fixture(autouse=True)
def few_panels() -> Iterator[None]:
    """Score two panels, and draw no reports."""
    with brief("delta"):
        yield


@pytest.fixture
def ran(template: Path, tmp_path: Path) -> Path:
    """Return a private copy of that folder, which is the current directory."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def fresh(template: Path, tmp_path: Path) -> Path:
    """Return a folder in which nothing has run yet, but whose data and splits are there."""
    declare(tmp_path)
    for name in ("data", "splits"):
        shutil.copytree(template / name, tmp_path / name)
    return tmp_path


def counts(*words: object) -> dict[str, int]:
    answer = perturbfm("suite", "status", "t", *words, "--json").json
    return {k: answer[k] for k in ("cells", "done", "missing", "failed", "not_applicable")}


# ---- plan ----------------------------------------------------------------------------------------------------


def test_suites_are_listed_and_shown_before_anything_is_made(tmp_path):
    declare(tmp_path, panels=["perturbench"])
    assert {"demo", "perturbench_style", "scperturbench_style", "vcc2026_style", "real_small", "t"} <= {
        row["suite"] for row in perturbfm("suite", "list", "--json").json
    }
    shown = perturbfm("suite", "show", "t", "--json").json
    assert (shown["cells"], shown["entries"], shown["panels"]) == (9, list(ENTRIES), ["perturbench"])
    assert shown["seeds"] == {entry: [0] for entry in ENTRIES}
    assert [s["kind"] for s in shown["splits"]] == ["context_ood", "combo_ood", "combo_ood"]
    assert shown["data_not_made"] == ["tiny"]
    assert not (tmp_path / "data").exists()
    assert "cells=9" in perturbfm("suite", "show", "t").out


def test_dry_run_makes_nothing(tmp_path):
    declare(tmp_path)
    answer = perturbfm("suite", "run", "t", "--dry-run")
    assert answer.values["missing"] == "9"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".perturbfm"]


def test_dry_run_says_what_is_done(ran):
    before = sorted(str(p) for p in ran.rglob("*"))
    answer = perturbfm("suite", "run", "t", "--dry-run", "--only", "entry=ridge", "--json").json
    assert (answer["cells"], answer["done"]) == (3, 3)
    assert sorted(str(p) for p in ran.rglob("*")) == before


@pytest.mark.parametrize(
    ("only", "cells"),
    [
        (["entry=ridge"], 3),
        (["entry=ridge,split=combo_ood"], 2),
        (["entry=ridge,entry=global_mean"], 6),
        (["entry=ridge", "split=context"], 5),
        (["dataset=tiny,seed=0,entry=ridge"], 3),
        (["split=tiny.combo_ood.cv-"], 6),
    ],
)
def test_only_narrows_by_fields_and_adds_by_repetition(ran, only, cells):
    assert counts(*(w for text in only for w in ("--only", text)))["cells"] == cells


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("ridge", "--only takes entry=..,split=..,dataset=..,seed=.., found 'ridge'"),
        ("entry=", "--only takes entry=..,split=..,dataset=..,seed=.., found 'entry='"),
        ("entry=rigde", "suite 't' has no entry 'rigde'; it has: control_only, global_mean, ridge"),
        ("dataset=demo", "suite 't' has no data set 'demo'; it has: tiny"),
        ("seed=one", "--only seed=one: a seed is a whole number"),
        ("split=iid", "--only selects no cell of suite 't'; its splits: tiny.combo_ood."),
    ],
)
def test_selections_of_nothing_are_refused_in_one_line(ran, only, message):
    answer = attempt("suite", "run", "t", "--only", only)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1


def test_an_unknown_name_in_a_suite_leaves_nothing(tmp_path):
    declare(tmp_path, panels=["perturbbench"])
    answer = attempt("suite", "run", "t")
    assert (answer.code, "unknown panel 'perturbbench'" in answer.err) == (2, True)
    assert not (tmp_path / "data").exists()


# ---- runs ----------------------------------------------------------------------------------------------------


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


# ---- scorecard -----------------------------------------------------------------------------------------------


def test_the_scorecard_has_the_values_of_the_runs(ran):
    answer = perturbfm("suite", "scorecard", "t", "--out", "card")
    assert answer.values["scorecard"] == "card/scorecard.json"
    card = json.loads(Path("card/scorecard.json").read_text())
    (context,) = [t for t in card["tasks"] if t["kind"] == "context_ood"]
    for entry in card["entries"]:
        (run,) = [
            p
            for p in ArtifactStore().run_dirs()
            if f"_{entry['entry']}_" in p.name and p.name.split("_")[1] in context["board"]
        ]
        value = json.loads((run / "metrics.json").read_text())["delta"]["global"]["pearson_centered"]
        found = entry["tasks"][context["board"]]
        assert found["value"] == (None if value is None else pytest.approx(value))
        assert found["coverage"] == 1.0
        assert entry["cost"]["cpu_s"] > 0
        assert entry["cost"]["parameters"] > 0
    ranks = {e["entry"]: e["tasks"][context["board"]]["rank"] for e in card["entries"]}
    assert sorted(ranks.values()) == [1.0, 2.0, 3.0]
    # A constant prediction has no correlation: the last place.
    assert ranks["global_mean"] == 3.0
    assert "Suite t" in Path("card/scorecard.html").read_text()


@pytest.mark.parametrize("small_fold", ["counts", "no signal", "not run"])
def test_the_scorecard_counts_folds_as_the_leaderboard_does(ran, small_fold):
    """Folds of six and four conditions, of which one may not count: the same numbers to the last digit."""
    folder = SplitFolder(Path("splits"))
    pairs = [h for h in folder.hashes() if folder.load(h).definition.kind == "combo_ood"]
    sizes = {h: folder.stats(h).counts["test"]["conditions"] for h in pairs}
    assert sorted(sizes.values()) == [4, 6]
    small = min(pairs, key=sizes.__getitem__)
    if small_fold == "not run":
        for path in ArtifactStore().run_dirs():
            if path.name.split("_")[1] == small[:7]:
                shutil.rmtree(path)
    elif small_fold == "no signal":
        folder.save_stats(small, folder.stats(small).model_copy(update={"no_signal": True}))
    perturbfm("leaderboard", "refresh")
    perturbfm("suite", "scorecard", "t", "--out", "card")
    card = json.loads(Path("card/scorecard.json").read_text())
    table = database.query(
        ArtifactStore(), "SELECT * FROM standings WHERE panel = 'delta' AND metric = 'pearson_centered'"
    ).replace(np.nan, None)
    rows = {(row["board"], row["entry"]): row for row in table.to_dict("records")}
    columns = {
        "control": "control_mean_floor",
        "train mean": "train_mean_floor",
        "half of the cells": "ceiling",
        "noise-free": "ceiling_noise_free",
    }
    for task in card["tasks"]:
        for entry in card["entries"]:
            found, row = entry["tasks"][task["board"]], rows.pop((task["board"], entry["entry"]))
            assert found["value"] == row["value"]
            assert (found["ci_low"], found["ci_high"]) == pytest.approx((row["ci_low"], row["ci_high"]))
            assert task["marks"] == {name: row[column] for name, column in columns.items()}
            assert (task["floor"], task["ceiling"]) == (row["control_mean_floor"], row["ceiling_noise_free"])
            assert (task["n_splits_no_signal"], task["counted"]) == (row["n_splits_no_signal"], True)
            # What was not run is not covered; what has no signal need not be.
            assert found["coverage"] * task["n_conditions"] == pytest.approx(row["n_conditions"])
            assert (found["coverage"] < 1) == (small_fold == "not run" and task["kind"] == "combo_ood")
    assert rows == {}
    said = "2 of 2 folds, of which 1 without signal left out"
    assert (said in Path("card/scorecard.html").read_text()) == (small_fold == "no signal")


def test_what_a_submission_leaves_out_is_not_covered(ran):
    (split,) = (r["hash"] for r in perturbfm("splits", "list", "--json").json if r["kind"] == "context_ood")
    keys = sorted(SplitFolder(Path("splits")).load(split).definition.folds.table["test"])
    genes = open_dataset(Path("data/tiny")).genes
    values = np.random.default_rng(0).normal(size=(len(keys), len(genes)))
    table = pd.DataFrame(values, index=pd.Index(keys, name="condition"), columns=genes)
    table.iloc[2:].to_csv("part.csv")
    answer = attempt(
        "submit", "part.csv", "--split", split, "--entry", "part", "--missing", "control", "--kind", "delta"
    )
    assert answer.code == 0, answer.err
    perturbfm("suite", "scorecard", "t", "--out", "card")
    card = json.loads(Path("card/scorecard.json").read_text())
    (context,) = [t for t in card["tasks"] if t["kind"] == "context_ood"]
    assert {name for name, value in context["marks"].items() if value is None} == set(context["mark_reasons"])
    (part,) = [e for e in card["entries"] if e["entry"] == "part"]
    n = len(keys)
    assert part["tasks"][context["board"]]["coverage"] == pytest.approx((n - 2) / n)
    assert part["coverage"] == pytest.approx((n - 2) / sum(t["n_conditions"] for t in card["tasks"]))
    said = f"2 of {n} conditions are not predicted and scored as their control"
    assert part["tasks"][context["board"]]["reason"].endswith(said)
    whole = {e["entry"]: e["coverage"] for e in card["entries"] if e["entry"] != "part"}
    assert set(whole.values()) == {1.0}


def test_a_suite_that_never_ran_has_no_scorecard(fresh):
    answer = attempt("suite", "scorecard", "t")
    assert (answer.code, answer.err) == (
        2,
        "error: no cell of suite 't' has run yet; run `perturbfm suite run t` first\n",
    )


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


# ---- shipped -------------------------------------------------------------------------------------------------


def test_shipped_suites_name_what_exists():
    catalog = load_catalog([packaged_folder()])
    for suite in catalog.suites.values():
        for name in suite.models:
            catalog.model(name)
        for panel in suite.panels:
            PANELS.get(panel)
        for group in suite.grid:
            assert (group.dataset in catalog.datasets) != (group.file is not None)


@pytest.mark.parametrize("name", ["perturbench_style", "scperturbench_style", "vcc2026_style"])
def test_suites_in_the_style_of_peers_are_small_and_every_entry_can_run(name):
    suite = load_catalog().suite(name)
    store = ArtifactStore()
    for group in suite.grid:
        suite_dataset(store, group)
    plan = plan_suite(store, suite)
    assert plan.unmade == ()
    assert {cell.reason for cell in plan.cells} == {None}
    assert 10 <= len(plan.cells) <= 40
    kinds = {split.kind for split in plan.splits}
    assert (
        kinds
        == {
            "perturbench_style": {"covariate_transfer", "combo_ood"},
            "scperturbench_style": {"context_ood", "perturbation_ood"},
            "vcc2026_style": {"covariate_transfer", "perturbation_ood"},
        }[name]
    )
    assert open_dataset(store.dataset(suite.grid[0].dataset)).values.counts is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "suite 'real_small' reads files of your own; give --data-dir FOLDER with norman.h5ad (Norman 2019",
        ),
        (
            ("--data-dir", "nowhere"),
            "--data-dir nowhere is no folder; suite 'real_small' expects one with norman.h5ad",
        ),
        (
            ("--data-dir", ".", "--only", "dataset=real_kang"),
            "--data-dir . lacks kang.h5ad (Kang 2018",
        ),
        (
            ("--data-dir", ".", "--only", "dataset=real_kang", "--only", "dataset=real_l1000"),
            "--data-dir . lacks kang.h5ad (Kang 2018",
        ),
    ],
)
def test_files_of_ones_own_that_are_missing_are_named_in_one_line(tmp_path, words, message):
    answer = attempt("suite", "run", "real_small", *words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {message}")
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_real_files_are_imported_once(shared_dir, tmp_path, monkeypatch):
    source = shared_dir / "data/sc_kang_ifnb_5celltypes.h5ad"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kang.h5ad").symlink_to(source)
    # Without ceilings, which take longer than all else.
    monkeypatch.setattr(suite_module, "freeze_split", partial(freeze_split, bounds=False))
    suite, store = load_catalog().suite("real_small"), ArtifactStore()
    only = parse_only(["dataset=real_kang"], suite)
    plan = plan_suite(store, suite, make=True, only=only, data_dir=Path("mine"))
    assert len(plan.splits) == 5
    assert all(split.is_frozen for split in plan.splits)
    assert load_catalog().dataset("real_kang").source == "artifact"
    shutil.rmtree(tmp_path / "mine")
    # The file is not read again.
    assert plan_suite(store, suite, make=True, only=only).cells == plan.cells
