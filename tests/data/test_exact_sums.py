"""Exact sums against rational arithmetic, in any order and any parts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from perturbfm_core.data.exact_sums import ExactSums
from perturbfm_core.data.pseudobulk import group_moments, group_sums

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e200, max_value=1e200)


def total(values: list[float], parts: int = 1, power: int = 1) -> float:
    """Return the sum of one group in one column, made in parts that are merged."""
    merged = ExactSums(1, 1)
    for part in np.array_split(np.asarray(values), parts):
        own = ExactSums(1, 1)
        own.add(part[:, None], np.zeros(len(part), dtype=np.int64), power=power)
        merged.merge({j: limb.reshape(1, 1) for j, limb in own.limbs.items()}, np.array([0]))
    return float(merged.total()[0, 0])


@given(st.lists(FLOATS, min_size=1, max_size=30), st.integers(1, 5), st.randoms(use_true_random=False))
def test_order_and_parts_change_no_bit(values: list[float], parts: int, random: object) -> None:
    mixed = list(values)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    once = total(values)
    assert total(mixed, parts) == once
    exact = sum(map(Fraction, values))
    # The last limb that does not fit is rounded, so the error is of the last places only.
    assert abs(Fraction(once) - exact) <= abs(exact) * Fraction(1, 2**51)


@given(st.lists(st.integers(-(2**45), 2**45), min_size=1, max_size=100), st.integers(-60, 60))
def test_what_float64_can_hold_is_exact(whole: list[int], exponent: int) -> None:
    assert total([float(np.ldexp(v, exponent)) for v in whole], 3) == float(np.ldexp(sum(whole), exponent))


@pytest.mark.parametrize(
    "values",
    [
        [1e300, 1.0, -1e300],
        [5e-324] * 3,
        [2.0**-1074, -(2.0**-1074)],
        [0.1] * 10,
        [1e16, 1.0, 1.0],
        [-0.0],
        [],
    ],
)
def test_extremes(values: list[float]) -> None:
    found = total(values) if values else float(ExactSums(1, 1).total()[0, 0])
    exact = float(sum(map(Fraction, values)))
    assert found == pytest.approx(exact, rel=2**-51)


def test_many_large_addends_are_carried_before_they_overflow() -> None:
    sums = ExactSums(1, 1)
    block = np.full((1 << 19, 1), 3.9e3)
    for _ in range(12):
        sums.add(block, np.zeros(len(block), dtype=np.int64))
    assert sums.total()[0, 0] == 12 * (1 << 19) * 3.9e3


def test_what_is_not_finite_stays_where_it_is() -> None:
    X = np.array([[1.0, np.nan], [2.0, 5.0], [np.inf, 1.0]])
    out = group_sums(X, np.array([0, 0, 1]), 2)
    assert out[0, 0] == 3
    assert np.isnan(out[0, 1])
    assert np.isinf(out[1, 0])
    assert out[1, 1] == 1


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.csc_matrix])
def test_moments_do_not_depend_on_the_order_of_rows(form: object) -> None:
    rng = np.random.default_rng(5)
    X = np.where(rng.random((400, 7)) < 0.4, rng.gamma(2.0, 1.0, (400, 7)), 0).astype(np.float32)
    codes, weights = rng.integers(-1, 5, 400), rng.random(400)
    order = rng.permutation(400)
    for w in (None, weights):
        one = group_moments(form(X), codes, 5, w)  # type: ignore[operator]
        two = group_moments(form(X[order]), codes[order], 5, None if w is None else w[order])  # type: ignore[operator]
        for a, b in zip((one.mean, one.var, one.weight), (two.mean, two.var, two.weight), strict=True):
            assert np.array_equal(a, b)
        mine = codes == 2
        np.testing.assert_allclose(
            one.mean[2], np.average(X[mine].astype(float), axis=0, weights=None if w is None else w[mine])
        )


def test_a_position_that_is_stored_twice_counts_as_its_sum() -> None:
    X = sp.csr_array((np.array([1.0, 2.0]), np.array([0, 0]), np.array([0, 2])), shape=(1, 2))
    assert group_sums(X, np.array([0]), 1, power=2)[0, 0] == 9


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3)])
def test_sums_of_columns_are_those_of_rows(shape: tuple[int, int]) -> None:
    X = np.random.default_rng(0).integers(0, 3, shape).astype(np.float32)
    codes = np.arange(shape[0]) % 2
    sums = ExactSums(2, shape[1])
    sums.add(sp.csc_array(X), codes)
    expected = np.stack([X[codes == k].sum(axis=0) for k in (0, 1)])
    assert np.array_equal(sums.total(), expected)
    assert np.array_equal(group_sums(sp.csc_array(X), codes, 2), expected)
