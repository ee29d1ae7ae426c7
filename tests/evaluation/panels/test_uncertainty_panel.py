"""Panel `uncertainty` against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import norm

from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.schema import COVERAGE_LEVELS
from tests.support.factories import comparison_of

PANEL = [m for _, m in METRICS.items() if m.panel == "uncertainty"]
Z = {0.5: 0.674490, 0.8: 1.281552, 0.9: 1.644854, 0.95: 1.959964}


def value(name: str, truth: object, mean: object, var: object) -> np.ndarray:
    """Return one metric of every condition."""
    return np.asarray(METRICS.get(f"uncertainty.{name}").function(comparison_of(truth, mean, var=var)))


def test_every_level_has_its_coverage() -> None:
    for stem in ("coverage", "conformal_coverage", "coverage_de", "conformal_coverage_de"):
        items = [METRICS.get(f"uncertainty.{stem}_{level:g}") for level in COVERAGE_LEVELS]
        assert [m.target for m in items] == list(COVERAGE_LEVELS)
        assert {m.direction for m in items} == {"target"}


@pytest.mark.parametrize("level", COVERAGE_LEVELS)
def test_coverage_counts_the_genes_within_the_interval(level: float) -> None:
    sd, z = 2.0, Z[level]
    inside, outside = sd * (z - 1e-4), sd * (z + 1e-4)
    truth = [[inside, -inside, outside, -outside, 0.0], [inside] * 5, [outside] * 5]
    found = value(f"coverage_{level:g}", truth, np.zeros((3, 5)), sd**2)
    assert found.tolist() == pytest.approx([0.6, 1.0, 0.0])


@pytest.mark.parametrize("level", COVERAGE_LEVELS)
def test_coverage_of_a_calibrated_prediction_is_its_level(level: float) -> None:
    rng = np.random.default_rng(0)
    mean, sd = rng.normal(size=(1, 2000)), rng.uniform(0.1, 3, size=(1, 2000))
    truth = mean + sd * ndtri((np.arange(2000) + 0.5) / 2000)
    assert value(f"coverage_{level:g}", truth, mean, sd**2)[0] == pytest.approx(level, abs=1e-3)


def test_coverage_of_a_point_is_only_the_point() -> None:
    assert value("coverage_0.9", [[0.0, 1.0]], [[0.0, 0.0]], 0.0).tolist() == [0.5]


def test_nll_is_that_of_a_gaussian() -> None:
    truth, mean, var = [[1.0, -2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 4.0], [0.25, 0.25]]
    first = (0.5 * (math.log(2 * math.pi) + 1) + 0.5 * (math.log(8 * math.pi) + 1)) / 2
    second = 0.5 * math.log(math.pi / 2)
    assert value("nll", truth, mean, var).tolist() == pytest.approx([first, second])
    expected = -norm.logpdf(truth, mean, np.sqrt(var)).mean(axis=1)
    np.testing.assert_allclose(value("nll", truth, mean, var), expected)


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_nll_is_least_where_the_variance_is_that_of_the_errors(factor: float) -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(1, 400))
    right = float((truth**2).mean())
    best = value("nll", truth, np.zeros_like(truth), right)[0]
    assert value("nll", truth, np.zeros_like(truth), factor * right)[0] > best


def test_nll_of_a_variance_of_zero_is_finite() -> None:
    assert np.isfinite(value("nll", [[0.0, 1.0]], [[0.0, 0.0]], 0.0)).all()


def test_interval_width_is_that_of_the_90_percent_interval() -> None:
    found = value("interval_width", [[0.0, 0.0]], [[5.0, -5.0]], [[1.0, 9.0]])
    assert found.tolist() == pytest.approx([2 * Z[0.9] * 2])


@pytest.mark.parametrize("name", [m.name for m in PANEL])
def test_a_point_prediction_has_no_uncertainty_and_says_so(name: str) -> None:
    comparison = comparison_of(np.ones((2, 4)), np.ones((2, 4)), var_filled=True)
    result = {r.metric.name: r for r in evaluate(comparison, ["uncertainty"]).results}[name]
    assert np.isnan(result.values).all()
    assert (result.status, result.reason) == ("not_applicable", "the prediction came without a variance")


def test_a_point_prediction_is_not_applicable_in_every_scope() -> None:
    comparison = comparison_of(np.ones((2, 4)), np.ones((2, 4)), var_filled=True)
    table = evaluate(comparison, ["uncertainty"]).table()
    assert set(table["status"]) == {"not_applicable"}
    assert set(table["reason"]) == {"the prediction came without a variance"}
