"""Groups, novelty, significance, and the document of ``calibration.json``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from perturbfm_core.evaluation.comparison import Comparison, TrainSide
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import evaluate, metrics_json
from perturbfm_core.evaluation.panels.uncertainty import coverage, novelty
from perturbfm_core.evaluation.panels.uncertainty.report import calibration_report
from perturbfm_core.schema import COVERAGE_LEVELS
from tests.support.calibrated_predictions import calibrated, gaussian_intervals, train_of
from tests.support.factories import comparison_of


def value(name: str, c: Comparison) -> float:
    """Return one metric over all conditions."""
    (result,) = [r for r in evaluate(c, ["uncertainty"]).results if r.metric.name == name]
    return float(result.grouped(np.zeros(len(c), dtype=np.int64), 1)[0])


# ---- intervals in the panel -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", COVERAGE_LEVELS)
def test_calibrated_coverage_and_width_are_those_of_the_intervals(level: float) -> None:
    c = calibrated()
    z = float(stats.norm.ppf(0.5 + level / 2))
    wide = replace(c, intervals=gaussian_intervals(30, 200, times=2.0), shared={})
    assert value(f"conformal_coverage_{level:g}", c) == pytest.approx(
        value(f"coverage_{level:g}", c), abs=1e-12
    )
    reached = (np.abs(c.observed - c.predicted) <= 2 * z * np.sqrt(c.predicted_var)).mean()
    assert value(f"conformal_coverage_{level:g}", wide) == pytest.approx(reached)
    assert value(f"conformal_width_{level:g}", wide) == pytest.approx(4 * z * np.sqrt(c.predicted_var).mean())


def test_no_interval_is_undefined_with_its_reason() -> None:
    table = evaluate(replace(calibrated(), intervals=None), ["uncertainty"]).table()
    rows = table[(table["scope"] == "global") & table["metric"].str.startswith("conformal_coverage_0.")]
    assert len(rows) == 4
    assert (rows["status"] == "undefined").all()
    assert rows["reason"].str.contains("has no calibrated interval of this level").all()


def test_a_level_without_a_guarantee_is_undefined_and_the_others_are_not() -> None:
    c = calibrated()
    assert c.intervals is not None
    factor = c.intervals.factor.copy()
    factor[3] = np.nan
    c = replace(c, intervals=replace(c.intervals, factor=factor))
    assert np.isnan(value("conformal_coverage_0.95", c))
    assert np.isnan(value("conformal_width_0.95", c))
    assert np.isfinite(value("conformal_coverage_0.9", c))
    report = calibration_report(c, {})
    assert report["clustered"]["after"]["0.95"]["value"] is None
    assert report["notes"]["after.0.95"].startswith("no interval of this level")
    json.dumps(report, allow_nan=False)


def test_the_gap_is_the_largest_distance_from_a_level() -> None:
    c = calibrated()
    gaps = [abs(value(f"coverage_{level:g}", c) - level) for level in COVERAGE_LEVELS]
    assert value("coverage_gap", c) == pytest.approx(max(gaps))


def test_the_gap_by_effect_is_that_of_the_worst_tercile() -> None:
    size = np.repeat([1.0, 2.0, 3.0], 10)[:, None]
    rng = np.random.default_rng(0)
    mean = size * np.ones(50)
    # Strong effects are never covered, all others always.
    truth = mean + np.where(size == 3, 100.0, 0.0) + 0 * rng.random((30, 50))
    c = comparison_of(truth, mean, intervals=gaussian_intervals(30, 50))
    assert value("conformal_coverage_gap_by_effect", c) == pytest.approx(0.95)
    assert value("conformal_coverage_gap", c) == pytest.approx(max(abs(2 / 3 - v) for v in COVERAGE_LEVELS))
    flat = replace(c, predicted=np.ones_like(mean), shared={})
    assert np.isnan(value("conformal_coverage_gap_by_effect", flat))


def test_selective_metrics_know_a_good_order_from_a_bad_one() -> None:
    good = calibrated(60)
    bad = replace(good, predicted_var=1 / good.predicted_var, shared={})
    assert value("excess_aurc", good) < 0.1 < 1 < value("excess_aurc", bad)
    assert value("error_detection_auroc", good) > 0.95 > 0.05 > value("error_detection_auroc", bad)
    assert value("spearman_conditions", good) > 0.95
    assert value("aurc", good) < value("aurc", bad)


def test_a_constant_variance_ranks_like_chance() -> None:
    c = replace(calibrated(), predicted_var=np.ones((30, 200)), shared={})
    assert value("excess_aurc", c) == pytest.approx(1)
    assert value("error_detection_auroc", c) == pytest.approx(0.5)
    assert np.isnan(value("spearman_conditions", c))


def test_the_rank_correlation_over_genes_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    c = comparison_of(rng.normal(size=(3, 40)), rng.normal(size=(3, 40)), var=rng.uniform(1, 2, size=(3, 40)))
    found = METRICS.get("uncertainty.spearman_genes").function(c)
    expected = [
        stats.spearmanr(np.abs(t - m), v).statistic
        for t, m, v in zip(c.observed, c.predicted, c.predicted_var, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)  # type: ignore[arg-type]


def test_pit_deviation_is_small_where_the_gaussian_is_right() -> None:
    c = calibrated(50, 400)
    assert value("pit_deviation", c) < 0.02
    assert value("pit_deviation", replace(c, predicted_var=100 * c.predicted_var, shared={})) > 0.5


# ---- significant genes ------------------------------------------------------------------------------------------


def test_significant_genes_are_those_beyond_sampling_noise() -> None:
    z = np.asarray([[0.0, 1.0, 4.0, 6.0], [0.1, 0.2, 0.3, 0.4]])
    c = replace(comparison_of(2 * z, np.zeros((2, 4))), s2=np.full((2, 4), 4.0))
    expected = [stats.false_discovery_control(2 * stats.norm.sf(row)) <= 0.05 for row in z]
    assert coverage.significant(c).tolist() == np.asarray(expected).tolist()
    assert coverage.significant(c)[0].tolist() == [False, False, True, True]


def test_coverage_of_significant_genes_counts_these_alone() -> None:
    truth = np.asarray([[0.0, 0.1, 8.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    mean = np.asarray([[5.0, 5.0, 8.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    c = replace(comparison_of(truth, mean), s2=np.ones((2, 4)))
    found = METRICS.get("uncertainty.coverage_de_0.9").function(c)
    assert found[0] == 0.5  # type: ignore[index]
    assert np.isnan(found[1])  # type: ignore[index]


def test_unknown_sampling_variance_has_no_significant_genes() -> None:
    c = calibrated()
    assert not coverage.significant(c).any()
    report = calibration_report(c, {})
    assert report["on_significant_genes"]["before"]["0.9"]["value"] is None
    assert "sampling variance is unknown" in report["notes"]["on_significant_genes"]


# ---- novelty ----------------------------------------------------------------------------------------------------


def combos(n_seen: int, n_unseen: int) -> tuple[list[tuple[str, str]], TrainSide]:
    rows = [("c", f"S{i}+T{i}") for i in range(n_seen)] + [("c", f"U{i}+V{i}") for i in range(n_unseen)]
    rows += [("c", "S0+U0")]
    return rows, train_of([f"{x}{i}" for x in "ST" for i in range(n_seen)])


def novel(n_seen: int, n_unseen: int, sigma: Any, **fields: Any) -> Comparison:
    rows, train = combos(n_seen, n_unseen)
    zeros = np.zeros((len(rows), 4))
    var = np.asarray(sigma, dtype=np.float64)[:, None] ** 2
    return comparison_of(zeros, zeros + 1, var=var, rows=rows, train=train, **fields)


def test_ood_auroc_compares_combinations_by_what_is_seen_of_them() -> None:
    c = novel(6, 5, [1, 2, 3, 4, 5, 6, *[5.5] * 5, 99])
    assert novelty.labels(c)[0] == novelty.COMBINATIONS
    # Every unseen one is above the five below 5.5 and below the sixth; what is half seen counts nowhere.
    assert value("ood_auroc", c) == pytest.approx(5 / 6)
    assert value("ood_auroc_membership", c) == 1


def test_epistemic_uncertainty_is_used_where_there_is_one() -> None:
    epistemic = np.asarray([*[1.0] * 6, *[2.0] * 5, 0.0])[:, None] * np.ones(4)
    c = novel(6, 5, np.ones(12), var_epistemic=epistemic)
    assert value("ood_auroc", c) == 1
    assert calibration_report(c, {})["novelty"]["uses"] == "epistemic"


@pytest.mark.parametrize(("n_seen", "n_unseen"), [(4, 8), (8, 4)])
def test_fewer_than_five_perturbations_on_a_side_have_no_ood_auroc(n_seen: int, n_unseen: int) -> None:
    c = novel(n_seen, n_unseen, np.ones(13))
    for name in ("ood_auroc", "ood_auroc_membership", "ood_auroc_distance"):
        assert np.isnan(value(name, c))
    report = calibration_report(c, {})
    assert report["novelty"]["auroc"] == {"model": None, "membership": None, "distance": None}
    assert "fewer than 5" in report["notes"]["novelty"]


def test_unseen_perturbations_are_compared_with_seen_ones_in_a_new_context() -> None:
    rows = [("new", f"S{i}") for i in range(5)] + [("new", f"U{i}") for i in range(5)] + [("c", "S0")]
    var = np.asarray([1.0] * 5 + [2.0] * 5 + [50.0])[:, None]
    c = comparison_of(
        np.zeros((11, 4)), np.ones((11, 4)), var=var, rows=rows, train=train_of([f"S{i}" for i in range(5)])
    )
    assert novelty.labels(c)[0] == novelty.PERTURBATIONS
    assert value("ood_auroc", c) == 1


def test_distance_is_to_the_nearest_train_delta() -> None:
    train = train_of(["A", "B"], [[1, 0, 0, 0], [0, 2, 0, 0]])
    mean = np.asarray([[5.0, 0, 0, 0], [1.0, 1, 0, 0], [0, 0, 3, 0]])
    c = comparison_of(np.zeros((3, 4)), mean, train=train)
    assert novelty.distance(c).tolist() == pytest.approx([0, 1 - np.sqrt(0.5), 1])  # type: ignore[union-attr]


# ---- the document -----------------------------------------------------------------------------------------------


def test_the_document_has_everything_and_a_reason_for_every_null() -> None:
    c = calibrated(train=train_of(["A"], np.ones((1, 200))))
    strata = {"seen": {str(k): "2" if i < 10 else "0" for i, k in enumerate(c.conditions.index)}}
    report = calibration_report(c, strata)
    json.dumps(report, allow_nan=False)
    assert (report["n_test_conditions"], report["n_test_perturbations"]) == (30, 30)
    assert set(report["by_group"]) == {"predicted_effect", "true_effect", "context", "stratum:seen"}
    assert {k: v["n_conditions"] for k, v in report["by_group"]["stratum:seen"].items()} == {"2": 10, "0": 20}
    for side in ("before", "after"):
        for level in COVERAGE_LEVELS:
            found = report["clustered"][side][f"{level:g}"]
            assert found["low"] < level < found["high"]
            assert found["n_clusters"] == 30
    assert report["effective_units"] == {"min": 33.0, "median": 33.0, "n_widened": 0}
    assert sum(report["pit_histogram"]["share"]) == pytest.approx(1)
    np.testing.assert_allclose(report["reliability"]["observed"], report["reliability"]["nominal"], atol=0.03)
    curve = report["risk_coverage"]
    assert curve["kept"][-1] == 1
    assert curve["risk"]["model"][-1] == pytest.approx(curve["risk"]["oracle"][-1])
    assert curve["aurc"]["oracle"] <= curve["aurc"]["model"] <= curve["aurc"]["random"]
    assert set(report["notes"]) == {"novelty", "on_significant_genes"}


def test_coverage_is_averaged_over_perturbations_and_not_over_conditions() -> None:
    # A is covered in its nine contexts, B not in its one.
    rows = [(f"c{i}", "A") for i in range(9)] + [("c0", "B")]
    truth = np.repeat([0.0, 100.0], [9, 1])[:, None] * np.ones(4)
    c = comparison_of(truth, np.zeros((10, 4)), rows=rows, intervals=gaussian_intervals(10, 4))
    assert calibration_report(c, {})["clustered"]["after"]["0.9"]["value"] == 0.5
    assert value("conformal_coverage_0.9", c) == 0.9


def test_the_worst_group_is_the_least_covered_of_those_known_beforehand() -> None:
    rows = [("good", f"P{i}") for i in range(6)] + [("bad", f"Q{i}") for i in range(6)]
    truth = np.repeat([0.0, 100.0], 6)[:, None] * np.ones(4)
    c = comparison_of(truth, np.zeros((12, 4)), rows=rows, intervals=gaussian_intervals(12, 4))
    found = calibration_report(c, {})["worst_group"]
    assert (found["axis"], found["group"], found["value"]) == ("context", "bad", 0.0)


def test_genes_are_binned_by_their_train_deltas() -> None:
    scale = np.repeat([0.1, 1.0, 2.0, 3.0, 4.0], 4)
    rng = np.random.default_rng(0)
    train = train_of(["A", "B"], np.stack([scale, -scale]))
    truth = rng.normal(size=(12, 20)) * np.where(scale == 4, 100, 0.001)
    c = comparison_of(truth, np.zeros((12, 20)), train=train, intervals=gaussian_intervals(12, 20))
    found = calibration_report(c, {})["by_gene_scale"]
    assert [b["n_genes"] for b in found] == [4] * 5
    assert [b["after"]["0.9"]["value"] for b in found[:4]] == [1] * 4
    assert found[4]["after"]["0.9"]["value"] < 0.1


def test_a_point_prediction_has_no_document_and_says_so() -> None:
    report = calibration_report(replace(calibrated(), var_filled=True), {})
    assert report == {"notes": {"all": "the prediction came without a variance; a constant was filled in"}}


def test_metrics_json_gathers_what_is_of_one_kind() -> None:
    own = metrics_json(evaluate(calibrated(), ["uncertainty"]).table())["uncertainty"]
    levels = {f"{level:g}" for level in COVERAGE_LEVELS}
    assert set(own["conformal_coverage"]) == set(own["conformal_width"]) == levels
    assert own["conformal"]["conformal_coverage_0.9"] == own["conformal_coverage"]["0.9"]
    assert set(own["risk_coverage"]) == {"aurc", "excess_aurc", "error_detection_auroc"}
    assert own["ood_auroc"] is None
    assert own["crps"] == own["global"]["crps"]
