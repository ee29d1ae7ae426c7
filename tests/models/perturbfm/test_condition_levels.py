"""Levels of error of conditions: what they learn, from which rows, and that they come back from a file."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.models.perturbfm.variance.condition_levels import (
    MIN_ROWS,
    PART_SHRINKAGE,
    TRAIT_SHRINKAGE,
    ConditionLevels,
    Shrinkage,
    effect_traits,
    excess_of,
)
from tests.support.factories import conditions_of

GENES = [f"G{i}" for i in range(10)]
PAIRS = [f"{a}+{b}" for a, b in combinations(GENES, 2)]


def pairs(names: list[str]) -> pd.DataFrame:
    return conditions_of([("c", n) for n in names])


def raised(names: list[str], gene: str = "G0", by: float = 1.5) -> np.ndarray:
    """Return errors that are larger, by a log factor, wherever one gene takes part."""
    noise = np.random.default_rng(0).normal(0, 0.2, len(names))
    return np.exp(noise + by * np.asarray([gene in n.split("+") for n in names]))


def folds_of(n: int, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return fold [n] and the rows that each fold's predictor knew [k, n]."""
    fold = np.random.default_rng(1).permutation(n) % k
    return fold, np.stack([fold != j for j in range(k)])


def no_traits(n: int) -> np.ndarray:
    return np.zeros((n, 1))


def fitted(
    names: list[str], excess: np.ndarray, traits: np.ndarray | None = None
) -> tuple[ConditionLevels, np.ndarray]:
    fold, usable = folds_of(len(names))
    levels = ConditionLevels()
    u = no_traits(len(names)) if traits is None else traits
    return levels, levels.fit(pairs(names), u, excess, np.ones(len(names)), fold, usable)


def read(levels: ConditionLevels, names: list[str]) -> np.ndarray:
    return levels.read(pairs(names), no_traits(len(names)))


def test_a_gene_that_is_hard_in_other_combinations_is_expected_to_be_hard() -> None:
    known = [p for p in PAIRS if p not in ("G0+G1", "G2+G3")]
    levels, _ = fitted(known, raised(known))
    hard, easy = read(levels, ["G0+G1", "G2+G3"])
    assert levels.shrinkage.parts in PART_SHRINKAGE
    assert 1.0 < hard - easy < 2.0


def test_an_unseen_gene_has_no_level_of_its_own() -> None:
    levels, _ = fitted(PAIRS, raised(PAIRS))
    assert np.ptp(read(levels, ["X", "Y+Z"])) == 0


def test_levels_and_slopes_are_the_ridge_solution() -> None:
    rng = np.random.default_rng(3)
    traits = rng.normal(size=(len(PAIRS), 2))
    excess = raised(PAIRS) * np.exp(0.8 * traits[:, 0])
    levels, _ = fitted(PAIRS, excess, traits)
    assert levels.shrinkage.traits in TRAIT_SHRINKAGE
    assert levels.shrinkage.parts in PART_SHRINKAGE
    y = np.log(np.maximum(excess, 0.25))
    u = np.clip((traits - traits.mean(axis=0)) / (traits.std(axis=0) + 1e-6), -3, 3)
    z = np.asarray([[g in p.split("+") for g in GENES] for p in PAIRS], dtype=float)
    x = np.hstack([np.ones((len(PAIRS), 1)), u, z])
    penalty = [0.01] + [levels.shrinkage.traits] * 2 + [levels.shrinkage.parts] * len(GENES)
    exact = np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ y)
    same = traits.mean(axis=0)
    apart = levels.read(
        pairs(["G0", "nobody", "nobody"]), np.stack([same, same, same + np.asarray([0.5, 0])])
    )
    assert apart[0] - apart[1] == pytest.approx(exact[3], abs=1e-7)
    assert apart[2] - apart[1] == pytest.approx(0.5 * exact[1] / (traits[:, 0].std() + 1e-6), abs=1e-7)


def test_a_trait_that_errors_follow_is_learned_and_not_believed_far_beyond_train() -> None:
    names = [f"U{i}" for i in range(200)]
    rng = np.random.default_rng(4)
    traits = np.stack([rng.normal(size=200), rng.normal(size=200)], axis=1)
    excess = np.exp(traits[:, 0] + rng.normal(0, 0.2, 200))
    levels, own = fitted(names, excess, traits)
    assert levels.shrinkage.parts is None
    assert np.corrcoef(own, traits[:, 0])[0, 1] > 0.95
    low, one, far = levels.read(pairs(["x", "x", "x"]), np.asarray([[0.0, 0], [1.0, 0], [1e6, 0]]))
    assert one - low == pytest.approx(1.0, abs=0.15)
    assert one < far < low + 2.6


def test_traits_that_say_nothing_are_left_out() -> None:
    names = [f"U{i}" for i in range(60)]
    rng = np.random.default_rng(5)
    levels, own = fitted(names, np.exp(rng.normal(size=60)), rng.normal(size=(60, 3)))
    assert levels.shrinkage == Shrinkage()
    assert not own.any()


def test_errors_that_no_gene_explains_leave_the_variance_alone() -> None:
    names = [f"U{i}" for i in range(40)]
    levels, own = fitted(names, raised(names, "nobody"))
    assert levels.shrinkage == Shrinkage()
    assert not own.any()
    assert not read(levels, names).any()


def test_few_rows_are_not_learned_from() -> None:
    names = PAIRS[: MIN_ROWS - 1]
    levels, own = fitted(names, raised(names))
    assert levels.shrinkage == Shrinkage()
    assert not own.any()


def test_a_row_is_no_witness_of_its_own_fold_or_of_rows_that_its_predictor_did_not_know() -> None:
    fold, usable = folds_of(len(PAIRS))
    usable[0, 30:] = False
    excess = raised(PAIRS)
    own = ConditionLevels().fit(
        pairs(PAIRS), no_traits(len(PAIRS)), excess, np.ones(len(PAIRS)), fold, usable
    )
    changed = excess.copy()
    hidden = (fold == 0) | ~usable[0]
    # A permutation, so that the mean over all rows stays what it was.
    changed[hidden] = np.random.default_rng(2).permutation(changed[hidden])
    other = ConditionLevels().fit(
        pairs(PAIRS), no_traits(len(PAIRS)), changed, np.ones(len(PAIRS)), fold, usable
    )
    mine = fold == 0
    difference = (own - other)[mine]
    assert np.ptp(difference) < 1e-9
    assert np.ptp((own - other)[~mine]) > 1e-3


def test_the_factors_leave_the_mean_of_the_variance_right() -> None:
    excess = raised(PAIRS)
    _, own = fitted(PAIRS, excess)
    assert float((excess / np.exp(own)).mean()) == pytest.approx(float(excess.mean()))


def test_levels_come_back_from_arrays_and_meta() -> None:
    traits = np.random.default_rng(6).normal(size=(len(PAIRS), 2))
    levels, _ = fitted(PAIRS, raised(PAIRS) * np.exp(traits[:, 1]), traits)
    again = ConditionLevels()
    again.restore("p", levels.arrays("p"), levels.meta("p"))
    requested = pairs(["G0+G1", "G3", "X"])
    assert np.ptp(levels.read(requested, traits[:3])) > 0
    assert np.array_equal(again.read(requested, traits[:3]), levels.read(requested, traits[:3]))


def test_excess_weighs_genes_by_the_root_of_their_variance() -> None:
    # Variances 1 and 9: weights 1/4 and 3/4.
    error, s2 = np.asarray([[2.0, 1.0]]), np.asarray([[1.0, 0.5]])
    excess, var = excess_of(error, s2, np.asarray([[1.0, 9.0]]))
    assert excess[0] == pytest.approx(0.25 * 3 + 0.75 * 0.5)
    assert var[0] == pytest.approx(0.25 * 1 + 0.75 * 9)


def test_effect_traits_distinguish_one_strong_value_from_many_weak_ones() -> None:
    mean = np.asarray([[4.0, 0, 0, 0], [2.0, 2, 2, 2]])
    size, spread, unsure = effect_traits(mean, np.full((2, 4), np.e**2)).T
    assert size[0] == pytest.approx(size[1])
    assert spread[1] - spread[0] == pytest.approx(np.log(2), abs=1e-3)
    assert unsure == pytest.approx([1.0, 1.0], abs=1e-6)
