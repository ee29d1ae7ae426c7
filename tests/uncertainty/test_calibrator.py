"""The calibrator: its steps in order, its guarantee, its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.config import parse
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.errors import ModelError
from perturbfm_core.uncertainty.calibrator import Calibrator, load_calibrator, save_calibrator
from perturbfm_core.uncertainty.config import UncertaintyConfig
from perturbfm_core.uncertainty.conformal import Conformal
from perturbfm_core.uncertainty.scaling import Scaling
from tests.support.factories import conditions_of
from tests.support.residuals import guard_for, residuals_of, world

GENES = 30
ROWS = [("c", f"N{i}") for i in range(8)]


def fitted(residuals: OutOfFold | None = None, apart: OutOfFold | None = None, **block: Any) -> Calibrator:
    residuals = residuals_of(*world(60, growth=0.5)) if residuals is None else residuals
    config = parse(UncertaintyConfig, block, "block")
    scale = np.linspace(1, 2, residuals.truth.shape[1])
    return Calibrator.fit(config, residuals, guard_for(residuals), scale, for_scaling=apart)


def new_prediction() -> Prediction:
    return Prediction(*(x[:8].astype(np.float32) for x in world(8, growth=0.5, seed=9)[1:]))


def test_a_calibrator_scales_and_then_gives_intervals() -> None:
    calibrator = fitted()
    assert isinstance(calibrator.scaling, Scaling)
    assert isinstance(calibrator.conformal, Conformal)
    conditions = conditions_of(ROWS)
    found = calibrator.apply(new_prediction(), conditions)
    by_hand = calibrator.conformal.apply(calibrator.scaling.apply(new_prediction(), conditions), conditions)
    assert np.array_equal(found.var, by_hand.var)
    assert found.intervals is not None
    assert by_hand.intervals is not None
    assert np.array_equal(found.intervals.factor, by_hand.intervals.factor)
    assert np.array_equal(found.mean, new_prediction().mean)


@pytest.mark.parametrize(
    ("block", "scaled", "intervals"),
    [
        ({"scale": False, "conformal": {"method": "none"}}, False, False),
        ({"scale": True, "conformal": {"method": "none"}}, True, False),
        ({"scale": False}, False, True),
    ],
)
def test_steps_that_are_switched_off_change_nothing(block: Any, scaled: bool, intervals: bool) -> None:
    found = fitted(**block).apply(new_prediction(), conditions_of(ROWS))
    assert np.array_equal(found.var, new_prediction().var) != scaled
    assert (found.intervals is not None) == intervals


def test_intervals_can_have_other_levels() -> None:
    found = fitted(levels=[0.6, 0.7]).apply(new_prediction(), conditions_of(ROWS)).intervals
    assert found is not None
    assert found.levels.tolist() == [0.6, 0.7]


def test_a_calibrator_needs_residuals() -> None:
    truth, mean, var = world(4)
    empty = residuals_of(truth[:0], mean[:0], var[:0], units=[])
    with pytest.raises(ModelError, match="no residuals to calibrate on"):
        fitted(empty)


# ---- which guarantee holds ------------------------------------------------------------------------------------


def calibration_fold(n: int = 25) -> OutOfFold:
    return residuals_of(*world(n), source="calibration_fold")


def test_hierarchical_on_a_calibration_fold_is_guaranteed_where_units_suffice() -> None:
    found = fitted(calibration_fold(15), scale=False, conformal={"method": "hierarchical"}).info["guarantee"]
    assert found["0.9"] == "at least 0.9 for a random gene of a new perturbation"
    assert found["0.95"] == "none: 15 units cannot reach 0.95, 19 would"


def test_scaling_on_other_residuals_keeps_the_guarantee_and_on_the_same_it_does_not() -> None:
    block = {"conformal": {"method": "hierarchical"}}
    fold = calibration_fold()
    inner = residuals_of(*world(40), rows=[("c", f"V{i}") for i in range(40)], fitted=[["Q"]])
    guard = guard_for(fold)
    guard = type(guard)(guard.fitted | frozenset(inner.conditions.index), guard.calibration, guard.test)
    config = parse(UncertaintyConfig, block, "block")
    apart = Calibrator.fit(config, fold, guard, np.ones(GENES), for_scaling=inner)
    assert apart.info["guarantee"]["0.5"].startswith("at least 0.5")
    assert apart.info["scaling"]["residuals"] == "inner folds"
    assert fitted(fold, **block).info["guarantee"] == "none: scaling was fitted on the same residuals"


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("pooled", "none in finite samples"),
        ("mondrian", "none in finite samples"),
        ("hierarchical", r"CV\+ on the same folds would guarantee 1 - 2"),
        ("weighted", "the weights are estimated"),
        ("none", "none"),
    ],
)
def test_other_methods_claim_nothing(method: str, words: str) -> None:
    import re

    found = fitted(conformal={"method": method}).info
    assert re.search(words, found["guarantee"])
    assert (found["method"], found["residuals"], found["n_units"]) == (method, "out_of_fold", 60)


def test_group_sizes_are_recorded() -> None:
    rows = [("c", f"U{i}") for i in range(30)] + [("c", f"V{i}+Z") for i in range(10)]
    residuals = residuals_of(*world(40), rows=rows, units=[(r[1].split("+")[0],) for r in rows])
    info = fitted(residuals).info
    assert info["groups"] == [
        {"group": "combo:seen-1", "n_units": 10, "own_quantiles": False},
        {"group": "single:seen-0", "n_units": 30, "own_quantiles": True},
    ]
    assert set(info["factors"]) == {"all", "single:seen-0"}
    json.dumps(info, allow_nan=False)


def test_a_calibrator_without_residuals_says_why() -> None:
    calibrator = Calibrator.without(UncertaintyConfig(), "nothing was held out")
    found = calibrator.apply(new_prediction(), conditions_of(ROWS))
    assert found.intervals is None
    assert np.array_equal(found.var, new_prediction().var)
    assert calibrator.info == {"method": "none", "reason": "nothing was held out", "guarantee": "none"}


# ---- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pooled", "hierarchical", "mondrian", "weighted", "none"])
def test_a_calibrator_is_read_back_as_it_was_saved(method: str, tmp_path: Path) -> None:
    first = fitted(conformal={"method": method})
    save_calibrator(first, tmp_path)
    second = load_calibrator(tmp_path)
    assert second.config == first.config
    assert second.info == first.info
    conditions = conditions_of(ROWS)
    one, two = first.apply(new_prediction(), conditions), second.apply(new_prediction(), conditions)
    assert np.array_equal(one.var, two.var)
    if one.intervals is None:
        assert two.intervals is None
    else:
        assert two.intervals is not None
        np.testing.assert_array_equal(one.intervals.factor, two.intervals.factor)


def test_a_calibrator_that_does_nothing_is_saved_as_well(tmp_path: Path) -> None:
    save_calibrator(Calibrator.without(UncertaintyConfig(), "why"), tmp_path)
    assert load_calibrator(tmp_path).info["reason"] == "why"


def test_a_damaged_calibrator_is_refused(tmp_path: Path) -> None:
    save_calibrator(fitted(), tmp_path)
    (tmp_path / schema.CALIBRATOR_FILE).write_bytes(b"x")
    with pytest.raises(ModelError, match=r"calibrator\.safetensors is missing or damaged"):
        load_calibrator(tmp_path)
    save_calibrator(fitted(), tmp_path)
    meta = json.loads((tmp_path / schema.CALIBRATOR_META_FILE).read_text())
    del meta["conformal"]
    (tmp_path / schema.CALIBRATOR_META_FILE).write_text(json.dumps(meta))
    with pytest.raises(ModelError, match="does not hold a whole calibrator"):
        load_calibrator(tmp_path)
