"""The parts of a run's report, each against values that are known otherwise."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu

from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.leaderboard.bootstrap import Interval
from perturbfm_core.reports.plots.condition import bars, headline_plot
from perturbfm_core.reports.run import conditions, overview, uncertainty
from perturbfm_core.reports.run.enrichment import enrichment, gene_set_files
from perturbfm_core.reports.run.scale import scale_rows
from perturbfm_core.reports.run.scores import ReportScores
from perturbfm_core.reports.run.standing import Rival, Standing, baselines_of, standing_of
from perturbfm_core.reports.run.training import gate_of, training_data
from perturbfm_core.reports.run.values import compact
from perturbfm_core.reports.run.verdict import verdict
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord
from perturbfm_core.store.run_requests import put_request
from tests.evaluation.panels.uncertainty.test_calibration_report import calibrated, train_of
from tests.support.factories import comparison_of, run_config, score_rows, write_run
from tests.support.report_case import report_case, simulated

NONE = Interval(None, None)


def scores_of(comparison: Any) -> ReportScores:
    return ReportScores(evaluate(comparison, ["delta"]).table())


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


# ---- conditions and genes ---------------------------------------------------------------------------------------


def unpacked(text: str, kind: str, k: int) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=kind).reshape(-1, k)


def test_all_genes_are_packed_while_they_are_few() -> None:
    c = simulated(9, 25)
    data = conditions.condition_data(c, scores_of(c))
    assert (data["k"], data["index"], data["rule"]) == (25, None, "")
    order = [list(c.conditions.index).index(k) for k in data["keys"]]
    assert data["values"] == sorted(data["values"])
    for name, values in (
        ("observed", c.observed),
        ("predicted", c.predicted),
        ("spread", np.sqrt(c.predicted_var)),
    ):
        np.testing.assert_allclose(unpacked(data[name], "<f2", 25), values[order], rtol=2e-3, atol=1e-4)
    json.dumps(data, allow_nan=False)
    assert conditions.condition_data(replace(c, var_filled=True), scores_of(c))["spread"] is None


@pytest.mark.parametrize(("conditions_", "genes", "k"), [(40, 400, 100), (12, 1000, 166), (25, 90, 90)])
def test_of_many_genes_the_largest_changes_and_a_spread_are_kept(
    monkeypatch: pytest.MonkeyPatch, conditions_: int, genes: int, k: int
) -> None:
    monkeypatch.setattr(conditions, "POINTS", 2_000)
    c = simulated(conditions_, genes)
    data = conditions.condition_data(c, scores_of(c))
    assert data["k"] == k
    if k == genes:
        return
    index = unpacked(data["index"], "<u4", k)
    names = np.asarray(data["genes"])[index]
    for row, key in enumerate(data["keys"]):
        i = list(c.conditions.index).index(key)
        assert len(set(names[row])) == k
        size = np.maximum(np.abs(c.observed[i]), np.abs(c.predicted[i]))
        largest = {str(c.genes[g]) for g in np.argsort(-size)[: k // 2]}
        assert largest <= set(names[row])
        shown = unpacked(data["observed"], "<f2", k)[row]
        position = {str(g): j for j, g in enumerate(c.genes)}
        np.testing.assert_allclose(
            shown, c.observed[i, [position[g] for g in names[row]]], rtol=2e-3, atol=1e-4
        )
    assert f"{k} of {genes} genes" in data["rule"]


def test_of_many_conditions_ranks_are_kept_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "MOST_CONDITIONS", 5)
    c = simulated(21, 10)
    data = conditions.condition_data(c, scores_of(c))
    every = np.sort(scores_of(c).goodness.to_numpy())
    np.testing.assert_allclose(data["values"], every[[0, 5, 10, 15, 20]], rtol=1e-3)
    assert "5 of 21 conditions" in data["rule"]


@pytest.mark.parametrize(
    ("rows", "titles"),
    [
        ([("c", "A"), ("c", "B")], ["A", "B"]),
        ([("c", "A"), ("d", "A")], ["A in c", "A in d"]),
        ([("c", "A", "", "1"), ("c", "A", "", "2")], ["A in c, 1", "A in c, 2"]),
    ],
)
def test_titles_tell_conditions_apart(rows: list[tuple[str, ...]], titles: list[str]) -> None:
    c = comparison_of(np.eye(2), np.eye(2), rows=rows)
    assert conditions.titles_of(c) == titles


@pytest.mark.parametrize(("n", "genes"), [(30, 50), (8, 300), (3, 2)])
def test_components_are_those_of_the_singular_value_decomposition(n: int, genes: int) -> None:
    c = simulated(n, genes, seed=n)
    found = overview.components(c)
    assert found is not None
    seen = c.observed - c.observed.mean(axis=0)
    _, sizes, right = np.linalg.svd(seen, full_matrices=False)
    assert found["share"] == [round(100 * s) for s in (sizes**2 / (sizes**2).sum())[:2]]
    wanted = (c.predicted - c.observed.mean(axis=0)) @ right[:2].T
    got = np.asarray(found["predicted"])
    for axis in range(2):
        sign = np.sign(got[axis] @ wanted[:, axis])
        np.testing.assert_allclose(sign * got[axis], wanted[:, axis], rtol=5e-2, atol=5e-2)


def test_components_need_something_that_differs() -> None:
    assert overview.components(simulated(2, 20)) is None
    assert overview.components(comparison_of(np.ones((5, 4)), np.ones((5, 4)))) is None


def test_a_heatmap_has_the_largest_changes_of_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "HEAT_ROWS", 4)
    monkeypatch.setattr(overview, "HEAT_GENES", 3)
    c = simulated(9, 20)
    data = overview.heatmap(c)
    titles = conditions.titles_of(c)
    rows, columns = [titles.index(t) for t in data["rows"]], [list(c.genes).index(g) for g in data["columns"]]
    np.testing.assert_allclose(data["observed"], c.observed[np.ix_(rows, columns)], rtol=1e-2)
    np.testing.assert_allclose(data["predicted"], c.predicted[np.ix_(rows, columns)], rtol=1e-2)
    assert set(rows) == set(np.argsort(-np.square(c.observed).sum(axis=1))[:4])


def test_compact_numbers() -> None:
    assert compact([1 / 3, -12345.6, 0, np.nan, np.inf, 1e-12]) == [0.3333, -12350.0, 0.0, None, None, 1e-12]
    assert compact([[1.23456], [2]]) == [[1.235], [2.0]]


# ---- gene sets --------------------------------------------------------------------------------------------------


def gmt(path: Path, sets: dict[str, list[str]]) -> Path:
    text = "".join(f"{name}\tdescription\t" + "\t".join(genes) + "\n" for name, genes in sets.items())
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["a.gmt", "b.gmt.gz"])
def test_sets_are_ranked_by_the_errors_of_their_genes(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(6, 60))
    error = np.r_[np.full(20, 3.0), np.ones(40)] * rng.normal(size=(6, 60))
    c = comparison_of(truth, truth + error)
    genes = [str(g) for g in c.genes]
    sets = {
        "bad": genes[:12],
        "mixed": genes[::5],
        "good": genes[30:45],
        "few": genes[:4],
        "absent": ["X"] * 9,
    }
    found = enrichment(c, [gmt(tmp_path / name, sets)])
    assert found["tested"] == 3
    rows = {r[0]: r for r in found["rows"]}
    size = np.sqrt(np.square(error).mean(axis=0))
    expected = {}
    for key in ("bad", "mixed", "good"):
        inside = np.isin(genes, sets[key])
        test = mannwhitneyu(size[inside], size[~inside], method="asymptotic", use_continuity=False)
        expected[key] = test.pvalue
        assert rows[key][2] == inside.sum()
        assert rows[key][3] == pytest.approx(test.statistic / (inside.sum() * (~inside).sum()), rel=1e-3)
        assert rows[key][4] == pytest.approx(test.pvalue, rel=1e-3)
    adjusted = false_discovery_control(list(expected.values()))
    for key, wanted in zip(expected, adjusted, strict=True):
        assert rows[key][5] == pytest.approx(wanted, rel=1e-3)
    assert found["rows"][0][0] in ("bad", "good")


def test_gene_set_files_are_found_in_the_catalog_and_bad_ones_named(tmp_path: Path) -> None:
    assert gene_set_files() == []
    folder = tmp_path / "catalog" / "gene_sets"
    folder.mkdir(parents=True)
    good = gmt(folder / "go.gmt", {"mine": [f"g{i}" for i in range(6)]})
    (folder / "zz.gmt.gz").write_bytes(b"not packed")
    (folder / "notes.txt").write_text("x")
    assert gene_set_files() == [good, folder / "zz.gmt.gz"]
    found = enrichment(comparison_of(np.eye(12), np.zeros((12, 12))), gene_set_files())
    assert found["files"] == ["go.gmt"]
    assert [p.startswith("zz.gmt.gz cannot be read") for p in found["problems"]] == [True]
    # All errors are equal: nothing can be ranked.
    assert found["rows"][0][3:] == [0.5, 1.0, 1.0]


# ---- training ---------------------------------------------------------------------------------------------------


def record(n: int, best: int, **more: Any) -> dict[str, Any]:
    return {
        "best_epoch": best, "best_score": None, "epochs": n, "epochs_planned": n, "stopped_early": False,
        "curves": {"loss": [1.0 / (i + 1) for i in range(n)], "validation": [None] * n}, **more,
    }  # fmt: skip


def test_learning_curves_keep_the_epoch_that_was_kept() -> None:
    training = {
        "networks": [record(1000, 333, phase="member 1"), record(3, 3)],
        "members": [{"inner": [record(0, 0)]}],
        "scale": 0.51234,
        "names": ["a", "b"],
        "deep": {"x": {"y": 1}},
    }
    found = training_data(training)
    first, second = found["curves"]
    assert (first["name"], second["name"]) == ("member 1", "networks 2")
    assert 333 in first["epochs"]
    assert (first["epochs"][0], first["epochs"][-1]) == (1, 1000)
    assert len(first["epochs"]) <= 260
    assert first["loss"][first["epochs"].index(333)] == float(f"{1 / 333:.4g}")
    assert first["validation"] is None
    assert second["ending"][1] == "ran 3 epochs, without validation"
    assert dict(found["settings"]) == {"scale": "0.5123", "names": "a, b", "deep, x: y": "1"}
    assert training_data(None) == {"curves": [], "left_out": 0, "gates": [], "settings": []}


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"g": [0.0, 0.5], "gain": 0.02, "standard_error": 0.005, "groups": 40, "reason": "gain over one standard error"},
         "is open: gain over one standard error. Mean gain 0.02 in centred Pearson correlation over the core, out of fold, 0.015 more than the standard error of 0.005"),
        ({"g": [0.0, 0.0], "gain": 0.0, "standard_error": 0.0, "groups": 40, "reason": "no gain over one standard error"},
         "is closed: no gain over one standard error. By how much it missed was not recorded."),
        ({"g": [0.0, 0.0], "gain": None, "standard_error": None, "groups": 4, "reason": "4 groups are fewer than 10"},
         "is closed: 4 groups are fewer than 10."),
        ({"g": [1.0, 1.0], "gain": 0.1, "standard_error": 0.2, "groups": 40, "reason": "switched on"}, "is open: switched on."),
    ],
)  # fmt: skip
def test_a_gate_says_what_it_decided(gate: dict[str, Any], words: str) -> None:
    assert words in gate_of("", gate)["text"]


@pytest.mark.parametrize(
    ("gain", "fell", "words"),
    [
        (0.01, True, "opened with 0.007 to spare"),
        (0.001, True, "kept closed: missed by 0.002"),
        (0.01, False, "did not fall"),
    ],
)
def test_a_gate_says_by_how_much_it_missed(gain: float, fell: bool, words: str) -> None:
    tried = [{"part": "channels", "gain": gain, "standard_error": 0.003, "error_fell": fell}]
    found = gate_of("", {"g": [0, 0], "gain": 0.0, "standard_error": 0.0, "reason": "x", "tried": tried})
    assert words in found["tried"][0]["row"][3]
    assert "not recorded" not in found["text"]


# ---- uncertainty ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def intervals() -> Any:
    return calibrated(G=60, train=train_of(["A", "B"], np.ones((2, 60))))


def test_every_group_and_bin_of_genes_has_its_row(intervals: Any) -> None:
    from perturbfm_core.evaluation.panels.uncertainty.report import calibration_report

    seen = {str(k): "2" if i < 10 else "0" for i, k in enumerate(intervals.conditions.index)}
    data = uncertainty.calibration_data(calibration_report(intervals, {"seen": seen}))
    assert data is not None
    json.dumps(data, allow_nan=False)
    labels = [row[0] for row in data["groups"]]
    assert labels[:2] == ["all", "all"]
    for label in ("predicted effect: low (n = 10)", "seen: 2 (n = 10)", "gene scale 1 of 1 (n = 60)"):
        assert label in labels
    assert sum(data["pit"]) == pytest.approx(1, abs=1e-2)
    assert uncertainty.calibration_data({"notes": {"all": "none"}}) is None


def test_fans_have_an_interval_per_level_that_is_known(intervals: Any) -> None:
    picks = [("worst: P0", 0), ("best: P1", 1)]
    fans = uncertainty.fans(intervals, picks)
    assert [f["title"] for f in fans] == ["worst: P0", "best: P1"]
    genes = [list(intervals.genes).index(g) for g in fans[1]["genes"]]
    np.testing.assert_allclose(fans[1]["predicted"], intervals.predicted[1, genes], rtol=1e-3)
    whole = intervals.intervals.half_width(0, intervals.predicted_var)[1, genes]
    np.testing.assert_allclose(
        fans[1]["bands"][-1]["high"], intervals.predicted[1, genes] + whole, rtol=1e-3, atol=1e-3
    )
    factor = intervals.intervals.factor.copy()
    factor[3] = np.nan
    fewer = uncertainty.fans(replace(intervals, intervals=replace(intervals.intervals, factor=factor)), picks)
    assert len(fewer[0]["bands"]) == len(fans[0]["bands"]) - 1
    assert uncertainty.fans(replace(intervals, intervals=None), picks) == []


def test_the_report_says_how_intervals_were_made() -> None:
    rows = dict(
        uncertainty.how_calibrated(
            {
                "method": "mondrian",
                "variance": "out_of_fold residuals",
                "n_units": 30,
                "unit": "perturbation",
                "residuals": "out_of_fold",
                "guarantee": {"0.5": "at least 0.5", "0.9": "none: too few"},
                "groups": [
                    {"group": "a", "n_units": 25, "own_quantiles": True},
                    {"group": "b", "n_units": 5, "own_quantiles": False},
                ],
                "effective_units": {"min": 25.0, "median": 25.0, "n_widened": 2},
                "worst_group": {"axis": "context", "group": "x", "value": 0.8, "level": 0.9},
            }
        )
    )
    assert rows["calibrated on"] == "30 units (perturbation), out_of_fold"
    assert rows["guarantee"] == "at least 0.5; none: too few"
    assert rows["groups"] == "a: 25 units, b: 5 units, too few"
    assert rows["worst group"] == "context x: 0.800 at 0.9"
    assert dict(uncertainty.how_calibrated({"method": "none", "reason": "why"}))["not calibrated"] == "why"
    assert uncertainty.how_calibrated(None) == []


# ---- others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metrics", [None, {}, {"vcc2026": {}}, {"vcc2026": {"scale": None}}, {"vcc2026": {"scale": {"A": 1}}}]
)
def test_a_scale_that_is_not_there_has_no_rows(metrics: Any) -> None:
    assert scale_rows(metrics) == ([], [])


@pytest.mark.parametrize("label", ["<script>", "a & b", '"quoted"', "$x$", "\u03b2-actin", "", "x" * 90])
def test_bars_are_an_image_of_text_as_it_is(label: str) -> None:
    uri = bars([label, "other"], [-0.5, 1.0], "rows")
    tree = ElementTree.fromstring(base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")))
    texts = ["".join(t.itertext()) for t in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert label in texts or texts[1] == "x" * 35 + "\N{HORIZONTAL ELLIPSIS}"
    assert "-0.500" in texts


def test_the_plot_of_the_orchestrator_shows_the_lowest() -> None:
    values = {f"P{i}": i / 10 for i in range(5)} | {"none": float("nan")}
    uri = headline_plot(values, most=2)
    assert uri is not None
    text = base64.b64decode(uri.partition(",")[2]).decode()
    assert "P0" in text
    assert "P2" not in text
    assert headline_plot({"a": float("nan")}) is None
