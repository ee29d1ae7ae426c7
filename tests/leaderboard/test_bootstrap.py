"""The clustered bootstrap against one written with loops."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.leaderboard.bootstrap import DRAWS, MIN_UNITS, ClusteredBootstrap, Interval

SINGLES = [(g,) for g in "ABCDEFGH"]
PAIRS = [("A", "B"), ("C", "D"), ("A", "H")]


def by_hand(units: list[tuple[str, ...]], values: np.ndarray, seed: int, draws: int) -> tuple[float, float]:
    """Return the interval of a mean, resampling units one by one."""
    names = sorted({u for us in units for u in us})
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        counts = dict(zip(names, rng.multinomial(len(names), [1 / len(names)] * len(names)), strict=True))
        drawn = []
        for us, value in zip(units, values, strict=True):
            times = 1
            for u in us:
                times *= counts[u]
            drawn += [value] * int(times)
        drawn = [v for v in drawn if not np.isnan(v)]
        if drawn:
            means.append(sum(drawn) / len(drawn))
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "units",
    [
        pytest.param(SINGLES, id="one condition a unit"),
        pytest.param(SINGLES + SINGLES[:3] * 2, id="several conditions of a unit"),
        pytest.param(SINGLES + PAIRS, id="conditions of two units"),
    ],
)
def test_intervals_are_those_of_resampling_by_hand(units: list[tuple[str, ...]], seed: int) -> None:
    values = np.random.default_rng(9).normal(size=(len(units), 2))
    values[1, 1] = np.nan
    found = ClusteredBootstrap(units, draws=200, seed=seed).intervals(values)
    for e in range(2):
        low, high = by_hand(units, values[:, e], seed, 200)
        assert (found[e].low, found[e].high) == pytest.approx((low, high))


def test_a_ratio_of_means_is_resampled_as_a_ratio() -> None:
    rng = np.random.default_rng(4)
    above, below = (
        [rng.uniform(1, 2, size=(8, 1)) for _ in range(2)],
        [rng.uniform(1, 2, size=(8, 1)) for _ in range(2)],
    )
    above[0][3] = np.nan
    below[1][5] = np.nan
    bootstrap = ClusteredBootstrap(SINGLES, draws=200)
    counts = np.random.default_rng(0).multinomial(8, np.full(8, 1 / 8), size=200)

    def quotient(times: np.ndarray) -> float:
        parts = []
        for a, b in zip(above, below, strict=True):
            both = np.isfinite(a[:, 0]) & np.isfinite(b[:, 0])
            parts.append((a[both, 0] * times[both]).sum() / (b[both, 0] * times[both]).sum())
        return float(np.mean(parts))

    assert bootstrap.ratio(above, below).tolist() == pytest.approx([quotient(np.ones(8))])
    expected = np.percentile([quotient(times) for times in counts], [2.5, 97.5])
    (found,) = bootstrap.ratio_intervals(above, below)
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_units_are_drawn_and_not_conditions() -> None:
    # Five units of twenty equal conditions each: as uncertain as five values, not as a hundred.
    level = np.repeat([0.0, 1.0, 2.0, 3.0, 4.0], 20)
    units = [(u,) for u in np.repeat(list("ABCDE"), 20)]
    (clustered,) = ClusteredBootstrap(units).intervals(level[:, None])
    (five,) = ClusteredBootstrap([(u,) for u in "ABCDE"]).intervals(np.arange(5.0)[:, None])
    (hundred,) = ClusteredBootstrap([(f"{i}",) for i in range(100)]).intervals(level[:, None])
    assert clustered == five
    assert hundred.high is not None
    assert hundred.low is not None
    assert clustered.high is not None
    assert clustered.low is not None
    assert clustered.high - clustered.low > 3 * (hundred.high - hundred.low)


@pytest.mark.parametrize(("units", "claims"), [(MIN_UNITS - 1, False), (MIN_UNITS, True)])
def test_too_few_units_have_no_interval(units: int, claims: bool) -> None:
    bootstrap = ClusteredBootstrap([(f"u{i}",) for i in range(units)] * 3)
    values = np.random.default_rng(0).normal(size=(units * 3, 2))
    assert bootstrap.n_units == units
    found = bootstrap.intervals(values)
    assert len(found) == 2
    assert all((i.low is not None) == claims for i in found)
    assert claims or found == [Interval(None, None)] * 2


@pytest.mark.parametrize(("units", "claims"), [(1, False), (MIN_UNITS - 1, False), (MIN_UNITS, True)])
def test_only_units_with_a_value_count(units: int, claims: bool) -> None:
    # Thirty units, but values of some conditions of a few of them: one of these alone would have an interval of no width.
    values = np.full((60, 1), np.nan)
    values[: 2 * units, 0] = np.arange(2.0 * units)
    bootstrap = ClusteredBootstrap([(f"u{i // 2}",) for i in range(60)])
    assert bootstrap.count_units(np.isfinite(values.T)).tolist() == [units]
    (found,) = bootstrap.intervals(values)
    assert (found.low is not None) == claims
    assert np.isfinite(bootstrap.row_intervals(values.T)[0]).tolist() == [claims]
    drawn = bootstrap.row_ratios(values.T, np.ones_like(values.T))[1]
    assert drawn is not None
    assert bool(np.isfinite(drawn).any()) == claims


def test_the_mean_lies_within_its_interval() -> None:
    values = np.random.default_rng(1).normal(size=(30, 5))
    for e, found in enumerate(ClusteredBootstrap([(f"u{i}",) for i in range(30)]).intervals(values)):
        assert found.low is not None
        assert found.high is not None
        assert found.low < values[:, e].mean() < found.high


def test_a_constant_has_no_spread() -> None:
    (found,) = ClusteredBootstrap(SINGLES).intervals(np.full((8, 1), 0.25))
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))


def test_a_paired_difference_is_not_blurred_by_what_both_share() -> None:
    hard = np.random.default_rng(2).normal(size=8) * 10
    values = np.stack([hard, hard + 0.5], axis=1)
    bootstrap = ClusteredBootstrap(SINGLES)
    first, second = bootstrap.intervals(values)
    (gap,) = bootstrap.intervals(values[:, [1]] - values[:, [0]])
    assert (gap.low, gap.high) == pytest.approx((0.5, 0.5))
    assert first.high is not None
    assert second.low is not None
    assert first.high > second.low


def test_undefined_conditions_are_left_out() -> None:
    values = np.arange(8.0)[:, None]
    with_hole = np.concatenate([values, np.full((1, 1), np.nan)])
    units = [*SINGLES, ("A",)]
    assert ClusteredBootstrap(units).intervals(with_hole) == ClusteredBootstrap(SINGLES).intervals(values)


def test_a_column_without_values_has_no_interval() -> None:
    values = np.stack([np.arange(8.0), np.full(8, np.nan)], axis=1)
    found = ClusteredBootstrap(SINGLES).intervals(values)
    assert found[0].low is not None
    assert found[1] == Interval(None, None)


def test_a_column_defined_in_few_draws_has_no_interval() -> None:
    # One pair of rare units: most draws miss one of them.
    units = [*SINGLES, ("A", "B")]
    values = np.full((9, 1), np.nan)
    values[8] = 1.0
    share = by_hand(units, np.r_[np.full(8, np.nan), 1.0], 0, 50)
    assert share == (1.0, 1.0)
    assert ClusteredBootstrap(units).intervals(values) == [Interval(None, None)]


def test_the_same_units_give_the_same_draws() -> None:
    values = np.random.default_rng(3).normal(size=(8, 1))
    assert ClusteredBootstrap(SINGLES).intervals(values) == ClusteredBootstrap(list(SINGLES)).intervals(
        values
    )
    assert ClusteredBootstrap(SINGLES, seed=1).intervals(values) != ClusteredBootstrap(SINGLES).intervals(
        values
    )
    assert ClusteredBootstrap(SINGLES, draws=DRAWS).intervals(values) == ClusteredBootstrap(
        SINGLES
    ).intervals(values)
