"""A small version of the benchmark: what intervals cover on unseen perturbations and combinations of a screen.

The tolerances are those of its size: a screen of 60 perturbations is one draw, whose mean coverage scatters by
its standard error over perturbations.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from tests.support.coverage import LEVELS, TERCILES, Measured, measure
from tests.support.factories import simulated, split_all

SINGLES: dict[str, Any] = {"n_obs": 4000, "n_genes": 80, "n_contexts": 1, "n_perts": 60, "n_combos": 0}
PAIRS: dict[str, Any] = {"n_obs": 6000, "n_genes": 80, "n_contexts": 1, "n_perts": 40, "n_combos": 80}
# 120 controls in either role: the noise of their means is a large part of an error.
FEW_CONTROLS: dict[str, Any] = {**SINGLES, "n_obs": 3000, "control_fraction": 0.08}
SCREENS = {"singles": SINGLES, "pairs": PAIRS, "few controls": FEW_CONTROLS}


@lru_cache(maxsize=8)
def measured(which: str, kind: str, model: str) -> Measured:
    """Return what the intervals of an entry do on four folds."""
    ds = simulated(**SCREENS[which])
    folds = split_all(ds, kind, {}, folds=4, calibration="inner_cv", validation="inner_cv")
    return measure(ds, folds, model)


CASES = [
    ("singles", "perturbation_ood", "ridge"),
    ("singles", "perturbation_ood", "global_mean"),
    ("pairs", "combo_ood", "additive"),
    ("pairs", "combo_ood", "ridge"),
    ("pairs", "perturbation_ood", "additive"),
    ("few controls", "perturbation_ood", "ridge"),
]


@pytest.mark.parametrize(("which", "kind", "model"), CASES)
def test_unseen_conditions_are_covered_as_often_as_the_level_says(which: str, kind: str, model: str) -> None:
    hits = measured(which, kind, model).hits
    error = hits.std(axis=0, ddof=1) / np.sqrt(len(hits))
    assert (np.abs(hits.mean(axis=0) - LEVELS) <= 0.02 + error).all()


@pytest.mark.parametrize(("which", "kind", "model"), [c for c in CASES if c[0] == "pairs"])
def test_each_tercile_of_predicted_effect_is_covered(which: str, kind: str, model: str) -> None:
    found = measured(which, kind, model)
    for name in TERCILES:
        mine = found.hits[found.tercile == name]
        assert len(mine) >= 15
        error = mine.std(axis=0, ddof=1) / np.sqrt(len(mine))
        assert (np.abs(mine.mean(axis=0) - LEVELS) <= 0.07 + error).all()


def test_a_better_model_has_narrower_intervals() -> None:
    """Combinations are not sums here, but nearer to sums than to the mean of all: it shows at 80 % and above."""
    better = measured("pairs", "combo_ood", "ridge").widths.mean(axis=0)
    mean = measured("pairs", "combo_ood", "global_mean").widths.mean(axis=0)
    assert (better[1:] <= 0.9 * mean[1:]).all()


def test_errors_are_ranked_better_than_by_chance() -> None:
    found = measured("pairs", "perturbation_ood", "additive")
    assert found.excess_aurc.mean() < 0.9
    assert found.detection.mean() > 0.55
