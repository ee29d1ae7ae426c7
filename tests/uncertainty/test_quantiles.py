"""Weighted quantiles against tables worked by hand, and against crepes where one gene is all there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from crepes import ConformalRegressor
from hypothesis import given
from hypothesis import strategies as st

from perturbfm_core.uncertainty.quantiles import (
    binned_quantiles,
    cv_plus,
    row_weights,
    unit_weights,
    weighted_quantiles,
)
from tests.support.residuals import hierarchical_quantiles


def test_every_unit_weighs_the_same_however_many_rows_it_has() -> None:
    weights, n = unit_weights([("a",), ("a",), ("b",)])
    assert n == 2
    assert weights.tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_a_row_of_two_units_shares_in_both() -> None:
    # a: rows 0 and 1; b: rows 1 and 2; c: row 3.
    weights, n = unit_weights([("a",), ("a", "b"), ("b",), ("c",)])
    assert n == 3
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 6, 1 / 3])


def test_weights_of_some_rows_count_units_among_those_rows() -> None:
    weights, n = row_weights([("a",), ("a",), ("b",)], np.asarray([True, False, True]))
    assert n == 2
    assert weights.tolist() == pytest.approx([0.5, 0.0, 0.5])


@pytest.mark.parametrize(
    ("level", "value"), [(0.2, 1.0), (0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.74, 3.0), (0.76, 9.0)]
)
def test_the_quantile_is_the_first_score_that_reaches_the_level(level: float, value: float) -> None:
    # Two rows of two genes, 1/4 each; the third row has no weight.
    scores = np.asarray([[1.0, 3.0], [2.0, 9.0], [4.0, 4.0]])
    assert weighted_quantiles(scores, np.asarray([0.5, 0.5, 0.0]), np.asarray([level]))[0] == value


HAND = [
    # Unit a has the scores 1 and 2, b 3, c 4 and 6, with weight 1/4 per unit and 1/4 at infinity.
    # Distribution function: 1/8 at 1, 2/8 at 2, 4/8 at 3, 5/8 at 4, 6/8 at 6.
    (0.125, 1.0),
    (0.2, 2.0),
    (0.25, 2.0),
    (0.3, 3.0),
    (0.5, 3.0),
    (0.6, 4.0),
    (0.625, 4.0),
    (0.7, 6.0),
    (0.75, 6.0),
    (0.76, None),
    (0.8, None),
    (0.9, None),
]


@pytest.mark.parametrize(("level", "value"), HAND)
def test_hierarchical_quantiles_match_a_table_worked_by_hand(level: float, value: float | None) -> None:
    scores = np.asarray([[1.0], [2.0], [3.0], [4.0], [6.0]])
    units = [("a",), ("a",), ("b",), ("c",), ("c",)]
    found = hierarchical_quantiles(scores, units, np.asarray([level]))[0]
    if value is None:
        assert np.isnan(found)
    else:
        assert found == value


@pytest.mark.parametrize("n", [1, 3, 4, 9, 18, 19, 20, 99])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_there_is_no_guarantee_where_the_units_cannot_reach_the_level(n: int, level: float) -> None:
    scores = np.random.default_rng(n).exponential(size=(n, 3))
    found = hierarchical_quantiles(scores, [(f"u{i}",) for i in range(n)], np.asarray([level]))[0]
    assert np.isnan(found) == (level * (n + 1) > n + 1e-9)


@pytest.mark.parametrize("n", [22, 57, 200])
@pytest.mark.parametrize("level", [0.51, 0.777, 0.88, 0.93])
def test_with_one_score_per_unit_it_is_split_conformal(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    residuals, sigmas = rng.normal(size=n), rng.uniform(0.5, 2, size=n)
    peer = ConformalRegressor()
    peer.fit(residuals, sigmas=sigmas)
    (low, high), *_ = peer.predict_int(np.asarray([0.3]), sigmas=np.asarray([1.7]), confidence=level)
    scores = (np.abs(residuals) / sigmas)[:, None]
    reach = 1.7 * hierarchical_quantiles(scores, [(str(i),) for i in range(n)], np.asarray([level]))[0]
    assert (0.3 - reach, 0.3 + reach) == pytest.approx((low, high), abs=1e-9)


def test_with_one_score_per_unit_groups_are_those_of_mondrian_split_conformal() -> None:
    rng = np.random.default_rng(0)
    residuals, bins = rng.normal(size=90), np.repeat([0, 1], [37, 53])
    peer = ConformalRegressor()
    peer.fit(residuals, bins=bins)
    expected = peer.predict_int(np.zeros(2), bins=np.asarray([0, 1]), confidence=0.83)[:, 1]
    units = [(str(i),) for i in range(90)]
    for b in (0, 1):
        weights, n = row_weights(units, bins == b)
        found = weighted_quantiles(
            np.abs(residuals)[:, None], weights, np.asarray([0.83]), at_infinity=1 / (n + 1)
        )
        assert found[0] == pytest.approx(expected[b], abs=1e-9)


def test_bins_of_genes_have_quantiles_of_their_own() -> None:
    scores = np.asarray([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    found = binned_quantiles(
        scores, np.full(3, 1 / 3), np.asarray([0.5, 0.9]), np.asarray([0, 2], dtype=np.int16), 3
    )
    assert found[:, 0].tolist() == [2.0, 3.0]
    assert np.isnan(found[:, 1]).all()
    assert found[:, 2].tolist() == [20.0, 30.0]


@given(st.integers(2, 30), st.integers(1, 6), st.floats(0.05, 0.95), st.integers(0, 10_000))
def test_quantiles_are_those_of_the_expanded_sample(n: int, genes: int, level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=(n, genes))
    flat = np.sort(scores.reshape(-1))
    expected = flat[math.ceil(level * len(flat) - 1e-9) - 1]
    assert weighted_quantiles(scores, np.full(n, 1 / n), np.asarray([level]))[0] == expected


def brute_cv_plus(
    fold_means: np.ndarray, scores: np.ndarray, fold: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return CV+ as Barber et al. 2021 write it, value by value, each row its own unit."""
    n = len(scores)
    _, R, G = fold_means.shape
    low, high = np.empty((R, G)), np.empty((R, G))
    k = math.ceil(level * (n + 1) - 1e-9)
    for r in range(R):
        for g in range(G):
            below = sorted(fold_means[fold[i], r, g] - scores[i, g] for i in range(n))
            above = sorted(fold_means[fold[i], r, g] + scores[i, g] for i in range(n))
            low[r, g] = below[n - k] if k <= n else -np.inf
            high[r, g] = above[k - 1] if k <= n else np.inf
    return low, high


@pytest.mark.parametrize("level", [0.5, 0.8, 0.93, 0.99])
def test_cv_plus_is_that_of_its_paper(level: float) -> None:
    rng = np.random.default_rng(1)
    fold_means = rng.normal(size=(4, 3, 2))
    scores, fold = rng.exponential(size=(17, 2)), rng.integers(0, 4, size=17)
    found = cv_plus(fold_means, scores, fold, [(str(i),) for i in range(17)], level)
    for mine, other in zip(found, brute_cv_plus(fold_means, scores, fold, level), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-12)


def test_cv_plus_of_equal_predictors_is_split_conformal() -> None:
    rng = np.random.default_rng(2)
    mean, scores = rng.normal(size=(1, 5, 3)), rng.exponential(size=(30, 3))
    units = [(str(i),) for i in range(30)]
    low, high = cv_plus(np.repeat(mean, 3, axis=0), scores, np.arange(30) % 3, units, 0.8)
    for g in range(3):
        reach = hierarchical_quantiles(scores[:, [g]], units, np.asarray([0.8]))[0]
        np.testing.assert_allclose(high[:, g] - mean[0, :, g], reach)
        np.testing.assert_allclose(mean[0, :, g] - low[:, g], reach)
