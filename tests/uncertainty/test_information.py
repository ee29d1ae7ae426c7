"""Choosing what to measure: greedy information against brute force, and no candidate twice over."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from perturbfm_core.uncertainty.information import diverse, greedy_information, information


def covariance(q: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(q, q + 2)) * rng.uniform(0.3, 2.0, size=(q, 1))
    return A @ A.T / q


def greedy(K: np.ndarray, noise: float, k: int) -> tuple[np.ndarray, np.ndarray]:
    return greedy_information(
        np.diag(K)[None].copy(), lambda i: K[[i]], np.asarray([noise]), np.asarray([1.0]), k
    )


def test_information_of_one_and_two_is_as_worked_by_hand():
    assert information(np.asarray([[3.0]]), 1.0) == pytest.approx(np.log(4) / 2)
    # det [[1 + 1, .5], [.5, 1 + 1]] = 4 - .25
    assert information(np.asarray([[1.0, 0.5], [0.5, 1.0]]), 1.0) == pytest.approx(np.log(3.75) / 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_greedy_is_the_brute_force_greedy_and_its_gains_add_up(seed, noise):
    K = covariance(7, seed)
    chosen: list[int] = []
    for _ in range(4):
        rest = [i for i in range(7) if i not in chosen]
        scores = [information(K[np.ix_([*chosen, i], [*chosen, i])], noise) for i in rest]
        chosen.append(rest[int(np.argmax(scores))])
    found, gain = greedy(K, noise, 4)
    assert found.tolist() == chosen
    for n in range(1, 5):
        at = found[:n]
        assert gain[:n].sum() == pytest.approx(information(K[np.ix_(at, at)], noise))


@pytest.mark.parametrize("seed", range(6))
def test_greedy_keeps_the_bound_of_submodularity_to_the_best_set(seed):
    K = covariance(8, seed)
    best = max(information(K[np.ix_(s, s)], 0.5) for s in combinations(range(8), 3))
    found, gain = greedy(K, 0.5, 3)
    assert len(set(found.tolist())) == 3
    assert (1 - 1 / np.e) * best <= gain.sum() <= best + 1e-12


def test_greedy_finds_the_best_set_of_independent_candidates():
    found, _ = greedy(np.diag([1.0, 5.0, 3.0, 4.0]), 1.0, 3)
    assert found.tolist() == [1, 3, 2]


def test_levels_are_weighed():
    # At the first level candidate 0 is worth more, at the second candidate 1.
    variance = np.asarray([[4.0, 1.0], [1.0, 3.0]])

    def column(i: int) -> np.ndarray:
        return np.asarray([np.diag(v)[i] for v in variance])

    for weight, first in ((0.9, 0), (0.1, 1)):
        weights = np.asarray([weight, 1 - weight])
        found, gain = greedy_information(variance, column, np.ones(2), weights, 1)
        assert found.tolist() == [first]
        assert gain[0] == pytest.approx(0.5 * weights @ np.log1p(variance[:, first]))


def test_a_duplicate_is_not_suggested_beside_its_original():
    # 0 and 1 are the same condition; 2 has less variance, but tells something else.
    K = np.asarray([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.5]])
    assert greedy(K, 0.5, 2)[0].tolist() == [0, 2]
    deltas = np.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert diverse(np.asarray([1.0, 0.9, 0.5]), deltas, 2, 0.5).tolist() == [0, 2]
    # Without diversity the duplicate comes second: the penalty is what keeps it out.
    assert diverse(np.asarray([1.0, 0.9, 0.5]), deltas, 2, 0.0).tolist() == [0, 1]


def test_marginal_relevance_is_as_worked_by_hand():
    # After 0: 1 has .5 * .8 - .5 * 0 = .4, 2 has .5 * 1 - .5 * cos 45 = .146; ties go to the first.
    deltas = np.asarray([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert diverse(np.asarray([1.0, 0.8, 1.0]), deltas, 3, 0.5).tolist() == [0, 1, 2]
    assert diverse(np.asarray([1.0, 0.8, 1.0]), deltas, 3, 0.0).tolist() == [0, 2, 1]


def test_selecting_more_than_there_are_gives_each_once():
    K = covariance(3, 0)
    assert sorted(greedy(K, 1.0, 9)[0].tolist()) == [0, 1, 2]
    assert sorted(diverse(np.ones(3), K, 9, 0.5).tolist()) == [0, 1, 2]
