"""Levels of error of perturbed genes: what they learn, from which rows, and that they come back from a file."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.models.perturbfm.part_levels import MIN_ROWS, SHRINKAGE, PartLevels
from tests.factories import conditions_of

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


def fitted(names: list[str], excess: np.ndarray) -> tuple[PartLevels, np.ndarray]:
    fold, usable = folds_of(len(names))
    levels = PartLevels()
    return levels, levels.fit(pairs(names), excess, np.ones(len(names)), fold, usable)


def test_a_gene_that_is_hard_in_other_combinations_is_expected_to_be_hard() -> None:
    known = [p for p in PAIRS if p not in ("G0+G1", "G2+G3")]
    levels, _ = fitted(known, raised(known))
    hard, easy = levels.read(pairs(["G0+G1", "G2+G3"]))
    assert levels.shrinkage in SHRINKAGE
    assert 1.0 < hard - easy < 2.0


def test_an_unseen_gene_has_no_level_of_its_own() -> None:
    levels, _ = fitted(PAIRS, raised(PAIRS))
    assert np.ptp(levels.read(pairs(["X", "Y+Z"]))) == 0


def test_the_level_of_one_gene_is_the_ridge_solution() -> None:
    # 30 conditions, each of its own gene but the last ten, which share S: level = sum of residuals / (10 + shrinkage).
    names = [f"U{i}" for i in range(20)] + [f"S+V{i}" for i in range(10)]
    y = np.asarray([-0.5] * 20 + [1.0] * 10)
    levels, _ = fitted(names, np.exp(y))
    z = np.zeros((30, 31))
    z[np.arange(20), np.arange(20)] = 1
    z[20:, 20] = 1
    z[np.arange(20, 30), np.arange(21, 31)] = 1
    assert levels.shrinkage is not None
    exact = np.linalg.solve(z.T @ z + levels.shrinkage * np.eye(31), z.T @ (y - y.mean()))
    got = levels.read(pairs(["S", "nobody"]))
    assert got[0] - got[1] == pytest.approx(exact[20], abs=1e-8)


def test_errors_that_no_gene_explains_leave_the_variance_alone() -> None:
    names = [f"U{i}" for i in range(40)]
    levels, own = fitted(names, raised(names, "nobody"))
    assert levels.shrinkage is None
    assert not own.any()
    assert not levels.read(pairs(names)).any()


def test_few_rows_are_not_learned_from() -> None:
    names = PAIRS[: MIN_ROWS - 1]
    levels, own = fitted(names, raised(names))
    assert levels.shrinkage is None
    assert not own.any()


def test_a_row_is_no_witness_of_its_own_fold_or_of_rows_that_its_predictor_did_not_know() -> None:
    fold, usable = folds_of(len(PAIRS))
    usable[0, 30:] = False
    excess = raised(PAIRS)
    own = PartLevels().fit(pairs(PAIRS), excess, np.ones(len(PAIRS)), fold, usable)
    changed = excess.copy()
    hidden = (fold == 0) | ~usable[0]
    # A permutation, so that the mean over all rows stays what it was.
    changed[hidden] = np.random.default_rng(2).permutation(changed[hidden])
    other = PartLevels().fit(pairs(PAIRS), changed, np.ones(len(PAIRS)), fold, usable)
    mine = fold == 0
    difference = (own - other)[mine]
    assert np.ptp(difference) < 1e-9
    assert np.ptp((own - other)[~mine]) > 1e-3


def test_the_factors_leave_the_mean_of_the_variance_right() -> None:
    excess = raised(PAIRS)
    _, own = fitted(PAIRS, excess)
    assert float((excess / np.exp(own)).mean()) == pytest.approx(float(excess.mean()))


def test_levels_come_back_from_arrays_and_meta() -> None:
    levels, _ = fitted(PAIRS, raised(PAIRS))
    again = PartLevels()
    again.restore("p", levels.arrays("p"), levels.meta("p"))
    asked = pairs(["G0+G1", "G3", "X"])
    assert np.array_equal(again.read(asked), levels.read(asked))
