"""Weights of the stack: members that agree on held-out rows share them, and rounding decides nothing."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.models.perturbfm.core.weights import (
    average_of_good,
    best_member,
    error_products,
    simplex_weights,
)
from perturbfm_core.models.principal_components import principal_components


def errors(seed: int = 0) -> np.ndarray:
    """Return errors [4, n] of members, the second and third of which predict the same."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=400)
    rows = [rng.normal(size=400), shared, shared, 1.5 * rng.normal(size=400)]
    return np.asarray(rows, dtype=np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_members_that_agree_share_their_weight_whatever_rounding_makes_of_them(seed: int) -> None:
    given = errors()
    noise = np.random.default_rng(seed).normal(size=given.shape) * 1e-7
    weights = simplex_weights(error_products((given + noise).astype(np.float32)))
    assert weights.sum() == pytest.approx(1.0)
    assert weights[1] == pytest.approx(weights[2], abs=1e-3)
    assert weights[1] > 0.1


def test_weights_of_members_apart_are_those_of_least_error() -> None:
    gram = np.diag([1.0, 2.0, 4.0])
    # The inverse errors, to the share that is added to each.
    np.testing.assert_allclose(simplex_weights(gram), np.asarray([4, 2, 1]) / 7, atol=1e-3)


@pytest.mark.parametrize("noise", [0.0, 1e-9, -1e-9])
def test_the_first_of_equal_members_is_the_best(noise: float) -> None:
    gram = np.diag([3.0, 1.0 + noise, 1.0, 2.0])
    assert best_member(gram) == 1
    assert average_of_good(gram).tolist() == [0.0, 0.5, 0.5, 0.0]


def test_products_are_those_of_double_precision() -> None:
    given = np.random.default_rng(1).normal(size=(3, 600_000)).astype(np.float32)
    wide = given.astype(np.float64)
    np.testing.assert_allclose(error_products(given), wide @ wide.T, rtol=1e-12, atol=1e-7)


@pytest.mark.parametrize(("n", "genes"), [(1, 5), (4, 9), (12, 7), (30, 700)])
def test_rows_vary_along_one_axis_fewer_than_there_are(n: int, genes: int) -> None:
    X = np.random.default_rng(2).normal(size=(n, genes))
    axes = principal_components(X, min(n, genes)).varying()
    assert len(axes) == min(n - 1, genes)
    np.testing.assert_allclose((X - X.mean(axis=0)) @ axes.T @ axes, X - X.mean(axis=0), atol=1e-9)
