"""Weighted conformal intervals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.prediction import Prediction
from perturbfm_core.uncertainty.config import ConformalConfig
from perturbfm_core.uncertainty.conformal import scores_of
from perturbfm_core.uncertainty.weighted import WeightedConformal
from tests.support.factories import conditions_of
from tests.support.residuals import hierarchical_quantiles, residuals_of

LEVELS = np.asarray([0.5, 0.8, 0.9, 0.95])
GENES = 40


def made(n: int, growth: float, seed: int = 0, low: float = 1.0, high: float = 8.0) -> tuple[Any, Any]:
    """Return truth and mean of n units whose errors grow with the effect size to the given power."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(np.log(low), np.log(high), size=(n, 1)))
    mean = size * np.ones((n, GENES))
    return mean + size**growth * rng.normal(size=(n, GENES)), mean


def fitted(truth: Any, mean: Any, **config: Any) -> WeightedConformal:
    requested = ConformalConfig(method="weighted", **config)
    bins = np.zeros(GENES, dtype=np.int16)
    return WeightedConformal.fit(residuals_of(truth, mean), requested, LEVELS, bins, frozenset("Z"))


def applied(conformal: WeightedConformal, mean: Any) -> Any:
    rows = [("c", f"N{i}") for i in range(len(mean))]
    found = conformal.apply(Prediction(mean, np.ones_like(mean)), conditions_of(rows)).intervals
    assert found is not None
    return found


@pytest.mark.parametrize("weights", ["distance", "density"])
def test_equal_weights_are_hierarchical(weights: str) -> None:
    truth = np.random.default_rng(0).normal(size=(60, GENES))
    residuals = residuals_of(truth, np.ones(GENES))
    found = applied(fitted(truth, np.ones(GENES), weights=weights), np.ones((12, GENES)))
    expected = hierarchical_quantiles(scores_of(residuals), residuals.units, LEVELS)
    np.testing.assert_allclose(found.factor, np.broadcast_to(expected[:, None, None], (4, 12, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.effective, 60, rtol=1e-5)
    assert not found.flag.any()


def test_the_effective_size_is_that_of_kish() -> None:
    conformal = fitted(*made(4, 0.0))
    ratio = np.asarray([[1.0, 1, 1, 1], [1, 0, 0, 0], [3, 1, 0, 0]])
    assert conformal.effective_size(ratio).tolist() == pytest.approx([4, 1, 16 / 10])


def test_rows_of_one_unit_are_one_in_the_effective_size() -> None:
    truth, mean = made(4, 0.0)
    residuals = residuals_of(truth, mean, units=[("a",), ("a",), ("b",), ("b",)])
    requested = ConformalConfig(method="weighted")
    conformal = WeightedConformal.fit(
        residuals, requested, LEVELS, np.zeros(GENES, dtype=np.int16), frozenset()
    )
    assert conformal.effective_size(np.ones((1, 4))).tolist() == pytest.approx([2.0])


def test_intervals_follow_what_resembles_the_query() -> None:
    truth, mean = made(400, 1.0)
    sizes = np.asarray([1.2, 3.0, 7.0])[:, None] * np.ones(GENES)
    found = applied(fitted(truth, mean), sizes)
    assert not found.flag.any()
    assert (np.diff(found.factor[2, :, 0]) > 0).all()


@pytest.mark.parametrize("weights", ["distance", "density"])
def test_a_shift_towards_strong_effects_is_covered_better(weights: str) -> None:
    truth, mean = made(400, 1.0)
    test, requested = made(200, 1.0, seed=1, low=4.0, high=8.0)
    pooled = np.quantile(np.abs(truth - mean), 0.9)
    plain = (np.abs(test - requested) <= pooled).mean()
    found = applied(fitted(truth, mean, weights=weights), requested)
    weighted = (np.abs(test - requested) <= found.half_width(2, np.ones_like(requested))).mean()
    assert plain < 0.8
    assert weighted > plain + 0.04


@pytest.mark.parametrize("weights", ["distance", "density"])
def test_too_small_an_effective_sample_widens_and_flags(weights: str) -> None:
    truth, mean = made(60, 1.0)
    far = 300.0 * np.ones((12, GENES)) * np.linspace(1, 1.1, 12)[:, None]
    conformal = fitted(truth, mean, weights=weights)
    found = applied(conformal, far)
    assert (found.effective < 30).all()
    assert found.flag.all()
    pooled = np.quantile(np.abs(truth - mean), LEVELS)
    assert (found.factor[:, :, 0] >= pooled[:, None]).all()


def test_a_query_unlike_all_others_has_a_finite_interval() -> None:
    conformal = fitted(*made(60, 1.0))
    found = applied(conformal, np.full((1, GENES), 1e30))
    assert found.flag.all()
    assert np.isfinite(found.factor).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("growth", "size"), [(-2.0, 1.0), (2.0, 8.0)])
def test_a_higher_level_is_never_narrower(growth: float, size: float, seed: int) -> None:
    conformal = fitted(*made(3, growth, seed))
    factor = applied(conformal, np.full((1, GENES), size)).factor[:, 0, 0]
    assert (np.diff(factor) >= 0).all()


def test_intervals_are_flagged_below_an_effective_size_of_thirty() -> None:
    truth, mean = made(60, 0.0)
    conformal = fitted(truth, mean)
    near = mean[:1]
    effective = float(applied(conformal, near).effective[0])
    assert applied(replace(conformal, min_effective=effective + 0.1), near).flag.all()
    assert not applied(replace(conformal, min_effective=effective - 0.1), near).flag.any()
    assert ConformalConfig(method="weighted").min_effective == 30


def test_a_single_query_has_no_density_and_falls_back_to_distance() -> None:
    truth, mean = made(80, 1.0)
    one, other = (fitted(truth, mean, weights=w) for w in ("density", "distance"))
    np.testing.assert_array_equal(applied(one, mean[:1]).factor, applied(other, mean[:1]).factor)
    assert one.describe()["distance_below"] == 10
    assert "distance_below" not in other.describe()


def test_saved_weighted_intervals_are_the_same() -> None:
    truth, mean = made(50, 1.0)
    first = fitted(truth, mean)
    second = WeightedConformal.restore(first.arrays(), first.meta())
    np.testing.assert_array_equal(applied(first, mean[:5]).factor, applied(second, mean[:5]).factor)
