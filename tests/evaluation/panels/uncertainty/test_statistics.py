"""The statistics of the panel against independent implementations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scoringrules
from scipy import stats
from sklearn.metrics import auc, roc_auc_score, roc_curve

from perturbfm_core.evaluation.panels.uncertainty import clusters, gaussian, selective

TIGHT = 1e-9


@pytest.fixture
def normal() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 30)), rng.normal(size=(20, 30)), rng.uniform(0.01, 4, size=(20, 30))


# ---- scoring rules --------------------------------------------------------------------------------------------


def test_crps_is_that_of_scoringrules(normal: tuple[np.ndarray, ...]) -> None:
    truth, mean, var = normal
    expected = scoringrules.crps_normal(truth, mean, np.sqrt(var))
    np.testing.assert_allclose(gaussian.crps(truth, mean, var), expected, atol=TIGHT, rtol=0)


def test_crps_of_a_point_is_its_error() -> None:
    assert gaussian.crps(np.asarray([1.0, -2]), np.zeros(2), np.zeros(2)).tolist() == [1, 2]


def test_nll_is_that_of_scoringrules_and_scipy(normal: tuple[np.ndarray, ...]) -> None:
    truth, mean, var = normal
    found = gaussian.nll(truth, mean, var)
    np.testing.assert_allclose(found, scoringrules.logs_normal(truth, mean, np.sqrt(var)), atol=TIGHT, rtol=0)
    np.testing.assert_allclose(found, -stats.norm.logpdf(truth, mean, np.sqrt(var)), atol=TIGHT, rtol=0)


def test_pit_is_the_normal_distribution_function(normal: tuple[np.ndarray, ...]) -> None:
    truth, mean, var = normal
    expected = stats.norm.cdf(truth, mean, np.sqrt(var))
    np.testing.assert_allclose(gaussian.pit(truth, mean, var), expected, atol=TIGHT, rtol=0)


def test_the_histogram_is_that_of_numpy_row_by_row() -> None:
    values = np.random.default_rng(1).random((5, 400))
    values[0, :2] = 0.0, 1.0
    found = gaussian.histogram(values, 20)
    for row, shares in zip(values, found, strict=True):
        np.testing.assert_allclose(shares, np.histogram(row, 20, (0, 1))[0] / 400, atol=TIGHT)


# ---- ranking by uncertainty -------------------------------------------------------------------------------------


def brute_aurc(risk: np.ndarray, uncertainty: np.ndarray) -> float:
    """Return the mean over every order that the uncertainty allows of the mean risk of the first k, over all k."""
    n = len(risk)
    areas = []
    for order in itertools.permutations(range(n)):
        if all(uncertainty[a] <= uncertainty[b] for a, b in itertools.pairwise(order)):
            areas.append(np.mean([risk[list(order[: k + 1])].mean() for k in range(n)]))
    return float(np.mean(areas))


@pytest.mark.parametrize(
    "uncertainty", [[3, 1, 2, 5, 4], [1, 1, 2, 2, 2], [1, 1, 1, 1, 1], [2, 2, 1, 3, 3]], ids=str
)
def test_aurc_is_the_mean_risk_over_what_is_kept_and_over_ties(uncertainty: list[float]) -> None:
    risk = np.asarray([0.3, 1.0, 0.1, 4.0, 2.0])
    found = selective.aurc(risk, np.asarray(uncertainty, dtype=float))
    assert found == pytest.approx(brute_aurc(risk, np.asarray(uncertainty)), abs=TIGHT)


def test_excess_aurc_runs_from_the_oracle_to_chance() -> None:
    risk = np.random.default_rng(2).exponential(size=40)
    assert selective.excess_aurc(risk, risk) == pytest.approx(0, abs=TIGHT)
    assert selective.excess_aurc(risk, np.ones(40)) == pytest.approx(1, abs=TIGHT)
    assert selective.excess_aurc(risk, -risk) > 1
    rng = np.random.default_rng(3)
    chance = [selective.excess_aurc(risk, rng.random(40)) for _ in range(3000)]
    assert np.mean(chance) == pytest.approx(1, abs=0.02)
    # The oracle is the best order there is.
    assert min(chance) > 0


@pytest.mark.parametrize("n", [6, 7, 8, 30, 31])
def test_error_detection_is_the_auroc_for_the_top_third(n: int) -> None:
    rng = np.random.default_rng(n)
    risk, sigma = rng.random(n), rng.integers(0, 5, size=n).astype(float)
    top = np.argsort(-risk)[: round(n / 3)]
    label = np.isin(np.arange(n), top)
    found = selective.error_detection(risk, sigma)
    assert found == pytest.approx(roc_auc_score(label, sigma), abs=TIGHT)
    false, true, _ = roc_curve(label, sigma)
    assert found == pytest.approx(auc(false, true), abs=TIGHT)
    # The same by counting pairs.
    pairs = sigma[label][:, None] - sigma[~label][None]
    assert found == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=TIGHT)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_that_of_scipy(ties: bool) -> None:
    rng = np.random.default_rng(4)
    a, b = rng.random(50), rng.random(50)
    if ties:
        a, b = np.round(a, 1), np.round(b, 1)
    assert selective.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=TIGHT)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(selective.excess_aurc(np.ones(9), np.arange(9.0)), id="equal errors"),
        pytest.param(selective.excess_aurc(np.arange(2.0), np.arange(2.0)), id="two conditions"),
        pytest.param(selective.error_detection(np.ones(9), np.arange(9.0)), id="nothing to detect"),
        pytest.param(selective.spearman(np.arange(9.0), np.ones(9)), id="constant"),
        pytest.param(selective.auroc(np.ones(3, dtype=bool), np.arange(3.0)), id="one class"),
    ],
)
def test_undefined_statistics_are_nan(value: float) -> None:
    assert np.isnan(value)


# ---- clusters ---------------------------------------------------------------------------------------------------


def test_the_clustered_interval_is_the_t_interval_of_cluster_means() -> None:
    values = np.asarray([0.2, 0.4, 0.9, 0.5, np.nan, 0.6, np.nan])
    names = np.asarray(["a", "a", "b", "c", "c", "d", "e"])
    means = [0.3, 0.9, 0.5, 0.6]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(means), scale=stats.sem(means))
    found = clusters.clustered_mean(values, names, (-10, 10))
    assert found["n_clusters"] == 4
    assert [found[k] for k in ("value", "low", "high")] == pytest.approx(
        [np.mean(means), low, high], abs=TIGHT
    )


def test_the_interval_keeps_to_its_bounds() -> None:
    found = clusters.clustered_mean(np.asarray([0.99, 1.0, 0.2]), np.asarray(["a", "b", "c"]))
    assert (found["low"], found["high"]) == (0, 1)


def test_one_cluster_has_no_interval_and_none_has_no_value() -> None:
    assert clusters.clustered_mean(np.asarray([0.5, 0.7]), np.asarray(["a", "a"])) == {
        "value": pytest.approx(0.6),
        "low": None,
        "high": None,
        "n_clusters": 1,
    }
    nothing = clusters.clustered_mean(np.full(2, np.nan), np.asarray(["a", "b"]))
    assert nothing == {"value": None, "low": None, "high": None, "n_clusters": 0}


def test_the_interval_covers_with_its_probability() -> None:
    """Perturbations differ, their conditions hardly: only the number of perturbations counts."""
    rng = np.random.default_rng(5)
    names = np.repeat(np.arange(12), 5)
    hits = 0
    for _ in range(2000):
        values = 0.5 + 0.1 * rng.normal(size=12)[names] + 0.01 * rng.normal(size=60)
        found = clusters.clustered_mean(values, names.astype(str))
        hits += found["low"] <= 0.5 <= found["high"]
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)
