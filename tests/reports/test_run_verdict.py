"""The verdict of a run's report, and the standing beside baselines that it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.leaderboard.bootstrap import Interval
from perturbfm_core.reports.run.scores import ReportScores
from perturbfm_core.reports.run.standing import Rival, Standing, baselines_of, standing_of
from perturbfm_core.reports.run.verdict import verdict
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord
from perturbfm_core.store.run_requests import put_request
from tests.support.factories import run_config, score_rows, write_run
from tests.support.report_case import report_case

NONE = Interval(None, None)


# ---- verdict ----------------------------------------------------------------------------------------------------


def rival(name: str, gain: float | None, low: float | None = None, high: float | None = None) -> Rival:
    return Rival(name, None if gain is None else 0.5 - gain, NONE, gain, Interval(low, high))


@pytest.mark.parametrize(
    ("mean", "base", "words"),
    [
        (rival("train mean", 0.2, 0.1, 0.3), rival("ridge", -0.05, -0.08, -0.02),
         "Beats the train mean by 0.200 (95 % interval 0.100 to 0.300), and is worse than ridge (the best of 3 other baselines here) by 0.050 (95 % interval 0.020 to 0.080)."),
        (rival("train mean", 0.01, -0.02, 0.04), rival("knn", -0.01, -0.04, 0.02),
         "Is not told apart from the train mean: +0.010 (95 % interval \N{MINUS SIGN}0.020 to 0.040), and is not told apart from knn (the best of 3 other baselines here): \N{MINUS SIGN}0.010 (95 % interval \N{MINUS SIGN}0.040 to 0.020)."),
        (rival("train mean", -0.3, -0.4, -0.2), rival("linear", 0.1, 0.0, 0.2),
         "Is worse than the train mean by 0.300 (95 % interval 0.200 to 0.400), and is not told apart from linear"),
        (rival("train mean", 0.0, 0.0, 0.0), rival("ridge", 0.1, 0.05, 0.2), "Equals the train mean, and beats ridge"),
        (rival("train mean", 0.2), rival("ridge", -0.1),
         "Scores 0.200 better than the train mean, and scores 0.100 worse than ridge"),
    ],
)  # fmt: skip
def test_a_verdict_is_no_stronger_than_its_intervals(mean: Rival, base: Rival, words: str) -> None:
    text = verdict(0.5, Standing(NONE, 10, "perturbation", mean, base, 3))
    assert text.startswith(words)


def test_a_verdict_names_what_it_lacks() -> None:
    few = verdict(0.5, Standing(NONE, 2, "context", rival("train mean", 0.2)))
    assert "the test has 2 of the contexts that were held out, and at least 5 are needed" in few
    assert "no other baseline with a value was run on this split" in few
    assert "undefined" in verdict(None, Standing(NONE, 9, "context"))
    assert verdict(0.5, Standing(NONE, 9, "context"), no_signal=True).startswith(
        "The data show no signal here"
    )
    one = Standing(NONE, 9, "context", None, rival("ridge", 0.1, 0.05, 0.2), 1)
    assert "beats ridge (the only other baseline run here)" in verdict(0.5, one).lower()


@pytest.mark.parametrize(
    ("value", "bound", "words"),
    [
        (0.4, 0.8, "It reaches 50 % of"),
        (0.9, 0.8, "It lies above the estimate"),
        (-0.1, 0.8, "The noise-free bound is 0.800"),
    ],
)
def test_a_verdict_knows_the_noise_free_bound(value: float, bound: float, words: str) -> None:
    standing = Standing(NONE, 9, "context", rival("train mean", 0.2, 0.1, 0.3))
    assert words in verdict(value, standing, noise_free=bound)


# ---- standing ---------------------------------------------------------------------------------------------------


def test_gains_are_paired_by_condition_and_turned_for_errors(tmp_path: Path) -> None:
    case = report_case(14, 30, tmp_path, baselines=2)
    scores = ReportScores(case.table)
    found = standing_of(
        scores, case.comparison, case.split, baselines_of(case.beside.store, case.record, *scores.headline)
    )  # type: ignore[arg-type]
    assert found.baseline is not None
    assert (found.baseline.name, found.n_baselines) == ("baseline0", 2)
    assert found.baseline.gain == pytest.approx(0.02)
    rmse = case.table[case.table["metric"] == "rmse"].assign(panel="delta")
    lower = ReportScores(pd.concat([rmse]))
    assert lower.headline == ("delta", "rmse")
    base = baselines_of(case.beside.store, case.record, "delta", "rmse")  # type: ignore[arg-type]
    back = standing_of(lower, case.comparison, case.split, base)
    # A baseline with smaller errors is the better one.
    assert back.baseline is not None
    assert back.baseline.name == "baseline1"
    assert back.baseline.gain == pytest.approx(-0.04)
    assert back.train_mean is not None
    assert back.train_mean.gain is not None
    assert back.train_mean.gain > 0
    assert back.train_mean.value == pytest.approx(
        np.sqrt(np.square(case.comparison.observed - case.comparison.train_mean).mean(axis=1)).mean()
    )


def test_one_value_of_a_context_is_drawn_by_context(tmp_path: Path) -> None:
    case = report_case(14, 30, tmp_path, baselines=0)
    table = case.table
    same = table.assign(value=table["value"].where(table["scope"] != "condition", 0.5))
    found = standing_of(ReportScores(same), case.comparison, case.split, [])  # type: ignore[arg-type]
    n = len(set(case.comparison.contexts))
    assert (found.unit, found.n_units) == ("context", n)
    assert (found.interval.low is None) == (n < 5)


def test_baselines_are_those_that_were_asked_for_last_on_the_same_split(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")

    def add(entry: str, values: list[float], **update: Any) -> None:
        config = run_config(entry, **update)
        frame = score_rows(config, {f"c|P{i}|||": v for i, v in enumerate(values)}, metric="pearson_centered")
        write_run(store, config, frame)

    add("old", [0.1, 0.1], created="2024-01-01T00:00:00.000000", params="a")
    add("old", [0.5, 0.7], created="2024-02-01T00:00:00.000000", params="b")
    add("seeds", [0.2, 0.4], seed=0)
    add("seeds", [0.4, 0.6], seed=1)
    add("elsewhere", [0.9, 0.9], split="b" * 64)
    add("other-data", [0.9, 0.9], data="e" * 64)
    add("learned", [0.9, 0.9], family="learned")
    add("mine", [0.9, 0.9])
    add("partly", [0.9, float("nan")])
    add("broken", [0.9, 0.9])
    next(store.runs.glob("*_broken_*")).joinpath("scores.parquet").write_bytes(b"nothing")
    record = RunRecord.model_validate(run_config("mine"))
    found = {b.name: b for b in baselines_of(store, record, "delta", "pearson_centered")}
    assert {name: round(b.value, 6) for name, b in found.items()} == {"old": 0.6, "seeds": 0.4}
    assert found["seeds"].by_condition.to_dict() == pytest.approx({"c|P0|||": 0.3, "c|P1|||": 0.5})
    assert baselines_of(store, record, "delta", "unknown") == []
    # Asked for again, the first configuration counts.
    put_request(store, next(store.runs.glob("20240101-*_old_*")).name, "2024-03-01T00:00:00.000000")
    found = {b.name: b for b in baselines_of(store, record, "delta", "pearson_centered")}
    assert {name: round(b.value, 6) for name, b in found.items()} == {"old": 0.1, "seeds": 0.4}


def test_a_condition_without_a_value_for_any_baseline_hides_none(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    none = float("nan")
    for entry, values in (("one", [0.4, 0.2, none]), ("less", [0.9, none, none]), ("never", [none] * 3)):
        config = run_config(entry)
        frame = score_rows(config, {f"c|P{i}|||": v for i, v in enumerate(values)}, metric="pearson_centered")
        write_run(store, config, frame)
    found = baselines_of(store, RunRecord.model_validate(run_config("mine")), "delta", "pearson_centered")
    assert [(b.name, round(b.value, 6)) for b in found] == [("one", 0.3)]


def test_baselines_that_another_version_of_the_metric_scored_are_left_out(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    for entry, value, version in (("older", 0.9, "1"), ("now", 0.5, "2")):
        config = run_config(entry)
        frame = score_rows(config, {"c|P0|||": value}, metric="pearson_centered")
        write_run(store, config, frame.assign(metric_version=version))
    record = RunRecord.model_validate(run_config("mine"))
    for version, names in ((None, ["now", "older"]), ("2", ["now"]), ("3", [])):
        found = baselines_of(store, record, "delta", "pearson_centered", version)
        assert sorted(b.name for b in found) == names
    # A report compares by the version that scored the run.
    config = run_config("mine")
    table = score_rows(config, {"c|P0|||": 0.7}, metric="pearson_centered").assign(metric_version="2")
    assert ReportScores(table).version == "2"


def test_only_units_with_a_value_are_counted(tmp_path: Path) -> None:
    case = report_case(14, 30, tmp_path, baselines=0)
    hidden = case.table["key"].str.contains("PERT[0-4][|]") & (case.table["scope"] == "condition")
    table = case.table.assign(value=case.table["value"].where(~hidden))
    found = standing_of(ReportScores(table), case.comparison, case.split, [])  # type: ignore[arg-type]
    assert (found.n_units, found.interval.low) == (2, None)
    assert "the test has 2 of the perturbed genes" in verdict(0.5, found)


def test_scores_of_a_panel_are_read_from_their_object(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home", tmp_path / "splits")
    config = run_config("ridge") | {
        "objects": {"model": "m", "prediction": "p", "scores": "s", "panels": {"delta": "ab" * 32}}
    }
    frame = score_rows(config, {"c|P0|||": 0.5}, metric="pearson_centered")
    folder = write_run(store, config, frame)
    place = store.object("ab" * 32)
    place.mkdir(parents=True)
    frame.assign(value=0.25)[["panel", "metric", "scope", "key", "value"]].to_parquet(
        place / "scores.parquet", index=False
    )
    record = RunRecord.model_validate(run_config("mine"))
    assert [b.value for b in baselines_of(store, record, "delta", "pearson_centered")] == [0.25]
    (place / "scores.parquet").unlink()
    assert [b.value for b in baselines_of(store, record, "delta", "pearson_centered")] == [0.5]
    assert folder.is_dir()
