"""One output of a worker scored by `external run`, by `external convert --publish` and by `submit`: the same either way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import perturbfm_core.external.work as work
from perturbfm_core.reports.run.coverage import coverage_of
from perturbfm_core.reports.run.provenance import flags_of
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import read_run_record
from tests.support.command import Answer, attempt, perturbfm

MARK = "    keys, rows, skipped = predicted(request, train, controls)\n"
CASES = {
    "absent": ("keys, rows = keys[2:], rows[2:]", 2),
    "skipped by its own word": (
        "skipped = [{'condition': keys[0], 'why': 'no such gene'}]; keys, rows = keys[1:], rows[1:]",
        1,
    ),
    "one answer for two": ("rows[1] = rows[0]", 0),
}


@pytest.fixture(scope="module")
def split(tmp_path_factory, request) -> tuple[Path, str]:
    """Return a folder with a small screen, and the hash of a split of it."""
    folder = tmp_path_factory.mktemp("either")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERTURBFM_HOME", str(folder / "home"))
        patch.setenv("PERTURBFM_SPLIT_DIR", str(folder / "splits"))
        patch.chdir(folder)
        size = ("--n-obs", 700, "--n-genes", 30, "--n-contexts", 3, "--n-perts", 5)
        perturbfm("data", "make-synth", "--out", "D", *size)
        held = ("--spec", "context_ood", "--holdout-context", "C0")
        found = perturbfm("splits", "create", "--data", "D", *held).values["split_hash"]
    return folder, found


@pytest.fixture
def here(split, monkeypatch) -> tuple[ArtifactStore, tuple[object, ...]]:
    """Return the store of the folder, which is entered, and the options of a command for its split."""
    folder, found = split
    monkeypatch.setenv("PERTURBFM_HOME", str(folder / "home"))
    monkeypatch.setenv("PERTURBFM_SPLIT_DIR", str(folder / "splits"))
    monkeypatch.chdir(folder)
    return ArtifactStore(folder / "home"), ("--split", found, "--data", "D")


def worker(name: str, change: str) -> str:
    """Write the template worker, whose output is changed by a line of code, and return its file."""
    text = (work.WORKERS / "template_worker.py").read_text()
    assert text.count(MARK) == 1
    Path(name).write_text(text.replace(MARK, f"{MARK}    {change}\n"))
    return name


def done(*argv: object) -> Answer:
    """Return what a command line printed that must succeed; a worker may be reported on standard error."""
    answer = attempt(*argv)
    assert answer.code == 0, answer.err
    return answer


def scores(run: Path) -> pd.Series:
    """Return the scores of a run that do not read its variance."""
    table = pd.read_parquet(run / "scores.parquet")
    table = table[table["panel"] != "uncertainty"]
    return table.set_index(["panel", "metric", "scope", "key"])["value"].sort_index()


@pytest.mark.parametrize("case", CASES)
def test_scores_counts_and_warnings_are_the_same(here, case):
    store, options = here
    change, missing = CASES[case]
    name = case.replace(" ", "-")
    file = worker(f"{name}.py", change)
    lenient = ("--param", "missing=control", "--param", "degenerate=flag")
    shown = done("external", "run", file, *options, *lenient, "--name", name, "--json").json
    run = Path(shown["run_dir"])
    made = store.find(json.loads((run / "training.json").read_text())["worker"]["output"])
    assert made is not None
    converted = done(
        "external", "convert", made.path, *options, "--model", f"{name}-converted", "--out", f"{name}.npz",
        "--missing", "control", "--degenerate", "flag", "--publish", "--json",
    ).json  # fmt: skip
    handed = done("submit", run / "predictions.npz", *options, "--entry", f"{name}-handed", "--json")
    others = [Path(converted["run_dir"]), Path(handed.json["run_dir"])]
    with np.load(run / "predictions.npz") as prediction:
        absent = prediction.get("not_predicted", np.zeros(1, dtype=bool))
        assert absent.sum() == missing
        assert not prediction["mean"][: len(absent)][absent].any()
        if missing and "interval_factor" in prediction:
            # What stands in for a prediction has no interval.
            assert np.isnan(prediction["interval_factor"][:, absent]).all()
    record = read_run_record(run)
    mine = scores(run)
    centered = mine.xs("pearson_centered", level="metric").xs("condition", level="scope")
    assert centered.isna().sum() >= missing
    assert record.notes.get("missing_as_control", 0) == missing
    assert record.notes["warnings"]
    assert shown["warnings"] == record.notes["warnings"]
    for other in others:
        theirs = read_run_record(other)
        assert theirs.notes.get("missing_as_control", 0) == missing
        assert set(theirs.notes["warnings"]) == set(record.notes["warnings"])
        assert [f for f in flags_of(theirs, no_signal=False) if f.startswith("Prediction:")]
        their_scores = scores(other)
        assert their_scores.index.equals(mine.index)
        # A file has no seed: what is drawn with it is the same.
        np.testing.assert_allclose(their_scores.to_numpy(float), mine.to_numpy(float), rtol=2e-4, atol=2e-5)
    assert any("Prediction:" in flag for flag in flags_of(record, no_signal=False))
    page = (run / "report.html").read_text()
    assert record.notes["warnings"][0].split("'")[0] in page


def test_coverage_counts_what_a_fitted_model_does_not_predict(here):
    _store, options = here
    change, missing = CASES["absent"]
    file = worker("absent.py", change)
    lenient = ("--param", "missing=control", "--param", "degenerate=flag")
    shown = done("external", "run", file, *options, *lenient, "--name", "absent", "--json").json
    run = Path(shown["run_dir"])

    class Table:
        by_condition = pd.DataFrame({"status": ["ok"] * 6, "reason": [None] * 6})
        overall = pd.DataFrame({"status": ["ok"], "reason": [None]})
        headline = ("delta", "pearson_centered")

    found = coverage_of(Table(), read_run_record(run))
    assert [p[:2] for p in found["parts"]] == [("predicted", 6 - missing), ("missing", missing)]
