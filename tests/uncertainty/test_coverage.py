"""A small version of the benchmark: what intervals cover on unseen perturbations and combinations of a screen.

The tolerances are those of its size: a screen of 60 perturbations is one draw, whose mean coverage scatters by
its standard error over perturbations.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from perturbfm_core.calibrating import configured_model, fit_calibrator
from perturbfm_core.config import ModelEntry
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.uncertainty import coverage
from perturbfm_core.pipeline import predict_rows
from perturbfm_core.runs import run_configs
from perturbfm_core.schema import COVERAGE_LEVELS
from perturbfm_core.splits.view import train_view
from tests.factories import simulated, split_all

LEVELS = np.asarray(COVERAGE_LEVELS)
SINGLES: dict[str, Any] = {"n_obs": 4000, "n_genes": 80, "n_contexts": 1, "n_perts": 60, "n_combos": 0}
PAIRS: dict[str, Any] = {"n_obs": 6000, "n_genes": 80, "n_contexts": 1, "n_perts": 40, "n_combos": 80}
FEW_CONTROLS: dict[str, Any] = {**SINGLES, "n_obs": 3000, "control_fraction": 0.08}


@lru_cache(maxsize=8)
def measured(which: str, kind: str, model: str) -> tuple[Any, Any, Any]:
    """Return coverage [C, levels], width [C, levels] and tercile of predicted effect of all test conditions."""
    ds = simulated(**{"singles": SINGLES, "pairs": PAIRS, "few controls": FEW_CONTROLS}[which])
    (config,) = run_configs(ModelEntry(name="e", description="x", model=model))
    hits, widths, groups = [], [], []
    for frozen in split_all(ds, kind, {}, folds=4, calibration="inner_cv", validation="inner_cv"):
        view = train_view(ds, frozen)
        fitted = configured_model(config)
        fitted.fit(view, 0)
        calibrator = fit_calibrator(ds, frozen, view, fitted, config)
        c = compare(ds, frozen, predict_rows(ds, frozen, fitted, calibrator=calibrator), observed(ds, frozen))
        half = [coverage.interval_half_width(c, level) for level in COVERAGE_LEVELS]
        hits.append(np.stack([coverage.inside(c, h) for h in half if h is not None], axis=1))
        widths.append(np.stack([2 * h.mean(axis=1) for h in half if h is not None], axis=1))
        tercile = coverage.predicted_effect(c)
        groups += [tercile.get(str(k), "") for k in c.conditions.index]
    return np.concatenate(hits), np.concatenate(widths), np.asarray(groups)


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
    hits, _, _ = measured(which, kind, model)
    error = hits.std(axis=0, ddof=1) / np.sqrt(len(hits))
    assert (np.abs(hits.mean(axis=0) - LEVELS) <= 0.02 + error).all()


@pytest.mark.parametrize(("which", "kind", "model"), [c for c in CASES if c[0] == "pairs"])
def test_each_tercile_of_predicted_effect_is_covered(which: str, kind: str, model: str) -> None:
    hits, _, groups = measured(which, kind, model)
    for name in ("low", "middle", "high"):
        mine = hits[groups == name]
        assert len(mine) >= 15
        error = mine.std(axis=0, ddof=1) / np.sqrt(len(mine))
        assert (np.abs(mine.mean(axis=0) - LEVELS) <= 0.07 + error).all()


def test_a_better_model_has_narrower_intervals() -> None:
    """Combinations are not sums here, but nearer to sums than to the mean of all: it shows at 80 % and above."""
    better = measured("pairs", "combo_ood", "ridge")[1].mean(axis=0)
    mean = measured("pairs", "combo_ood", "global_mean")[1].mean(axis=0)
    assert (better[1:] <= 0.9 * mean[1:]).all()
