"""Strata: terciles, effects against controls, distance to train."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.splits.strata import benjamini_hochberg, hotelling, strata_of, terciles
from tests.support.factories import grid_rows, screen, split_one

STRONG, WEAK, NONE = ["P0", "P1"], ["P2", "P3"], ["P4", "P5"]


@pytest.fixture(scope="module")
def cells() -> PerturbDataset:
    """Return a screen where two perturbations act strongly, two weakly and two not at all."""
    rng = np.random.default_rng(3)
    direction = {p: rng.normal(0, 1, 50) for p in STRONG + WEAK}
    size = dict.fromkeys(STRONG, 1.0) | dict.fromkeys(WEAK, 0.4) | dict.fromkeys([*NONE, "control"], 0.0)
    rows: list[Any] = grid_rows(["control"], ["x", "y"], reps=0, controls=120)
    for i, pert in enumerate([*STRONG, *WEAK, *NONE]):
        rows += [(pert, c) for c in ("x", "y") for _ in range(20 + 5 * i)]
    X = [4 + size[p] * direction.get(p, np.zeros(50)) + rng.normal(0, 0.5, 50) for p, _ in rows]
    return screen(rows, X=np.maximum(X, 0), genes=50)


def test_strata_of_a_screen(cells: PerturbDataset) -> None:
    strata = strata_of(cells, split_one(cells, "context_ood", {"holdout": ["x"]}))
    by = {name: {k.split("|")[1]: v for k, v in values.items()} for name, values in strata.items()}
    assert set(by) == {"cells", "effect", "response", "distance"}
    assert {p: by["effect"][p] for p in STRONG + WEAK} == dict.fromkeys(STRONG, "high") | dict.fromkeys(
        WEAK, "middle"
    )
    assert {p: by["response"][p] for p in STRONG + WEAK + NONE} == (
        dict.fromkeys(STRONG + WEAK, "responds") | dict.fromkeys(NONE, "null")
    )
    assert by["cells"] == {
        "P0": "low",
        "P1": "low",
        "P2": "middle",
        "P3": "middle",
        "P4": "high",
        "P5": "high",
    }
    assert {by["distance"][p] for p in STRONG} == {"low"}
    assert {by["distance"][p] for p in NONE} == {"high"}


def test_without_the_matrix_there_are_names_and_counts_only(cells: PerturbDataset) -> None:
    split = split_one(cells, "context_ood", {"holdout": ["x"]})
    assert set(strata_of(cells, split, expression=False)) == {"cells"}


def test_strata_of_differences_have_no_test_against_controls() -> None:
    rows = grid_rows([f"P{i}" for i in range(6)] + ["P0+P1", "P2+P3"], ["x"], controls=0)
    ds = screen(
        rows, X=np.random.default_rng(0).normal(size=(8, 20)), genes=20, space="delta", level="condition"
    )
    strata = strata_of(ds, split_one(ds, "explicit", {"folds": {"test": ["P0+P1", "P2+P3", "P4"]}}))
    assert set(strata) == {"seen", "effect", "distance"}
    assert Counter(strata["effect"].values()) == {"low": 1, "middle": 1, "high": 1}


def test_terciles_need_three_values_that_vary() -> None:
    keys = pd.Index(["a", "b", "c"])
    assert terciles(keys, np.asarray([3.0, 1.0, 2.0])) == {"a": "high", "b": "low", "c": "middle"}
    assert terciles(keys, np.ones(3)) == {}
    assert terciles(pd.Index(list("abcdefgh")), np.asarray([1.0] + [9.0] * 7)) == {}
    assert terciles(keys[:2], np.asarray([1.0, 2.0])) == {}


def test_hotelling_keeps_its_level_and_finds_a_shift() -> None:
    rng = np.random.default_rng(0)
    null = [hotelling(rng.normal(size=(20, 5)), rng.normal(size=(40, 5))) for _ in range(400)]
    assert 0.02 < np.mean(np.asarray(null) < 0.05) < 0.09
    assert hotelling(rng.normal(1, 1, (20, 5)), rng.normal(size=(40, 5))) < 1e-4
    assert np.isnan(hotelling(np.ones((1, 5)), np.ones((40, 5))))


def test_benjamini_hochberg_by_hand() -> None:
    # Thresholds .0125, .025, .0375, .05: the third is the last that passes.
    assert benjamini_hochberg(np.asarray([0.03, 0.01, 0.9, 0.026]), 0.05).tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert not benjamini_hochberg(np.asarray([0.5, 0.6]), 0.05).any()
