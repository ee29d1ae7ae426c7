"""Floors and ceilings of a cross-validation: each condition once, whether one fold tests it or several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import perturbfm_core as pfm
from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.evaluation.condition_bounds import (
    CONTROL,
    HALF,
    ConditionBounds,
    read_condition_bounds,
)
from perturbfm_core.leaderboard import database, reasons
from perturbfm_core.leaderboard.pooled_marks import PooledMarks
from perturbfm_core.pipeline.leaderboard import rank
from perturbfm_core.pipeline.split import freeze_split, stats_with_bounds, stored_condition_bounds
from perturbfm_core.store.artifacts import ArtifactStore
from tests.support.factories import grid_rows, screen
from tests.support.few_panels import score_only

# Fold `a` tests x and y, fold `b` y and z.
TESTED = {"a": ["x", "y"], "b": ["y", "z"]}
VALUES = {"a": [0.0, 0.8], "b": [0.4, 0.6]}


def marks(metric: str, values: dict[str, list[float]] = VALUES, **free: float) -> PooledMarks:
    """Return the marks of a board whose control and half of the cells have the same values."""
    means = {split: float(np.nanmean(v)) for split, v in values.items()}
    bounds = {
        split: ({metric: {"half": m, **free}}, {"control_mean": {metric: m}}) for split, m in means.items()
    }
    conditions = {
        split: ConditionBounds(
            tuple(keys), {(kind, metric): np.asarray(values[split]) for kind in (CONTROL, HALF)}
        )
        for split, keys in TESTED.items()
    }
    return PooledMarks(bounds, TESTED, conditions)


def test_a_condition_of_two_folds_counts_once() -> None:
    found = marks("rmse").of("delta", "rmse")
    # Means over folds are .4 and .5; x, y and z have 0, the mean of .8 and .4, and .6.
    assert (found.control_mean, found.half) == (pytest.approx(0.4), pytest.approx(0.4))
    undefined = marks("rmse", {"a": [0.0, np.nan], "b": [0.4, 0.6]}).of("delta", "rmse")
    assert undefined.control_mean == pytest.approx(1 / 3)


def test_the_noise_free_value_follows_from_halves_in_which_a_shared_condition_has_its_share() -> None:
    means = [float(np.mean(v)) for v in VALUES.values()]

    def free(half: float) -> float:
        return float(np.sqrt(2 * half / (1 + half)))

    bounds = {
        split: ({"pearson": {"half": m, "noise_free": free(m)}}, {})
        for split, m in zip(TESTED, means, strict=True)
    }
    known = {
        split: ConditionBounds(tuple(keys), {(HALF, "pearson"): np.asarray(VALUES[split])})
        for split, keys in TESTED.items()
    }
    found = PooledMarks(bounds, TESTED, known).of("delta", "pearson").noise_free
    # Of fold a x counts 1 and y a half, of fold b y a half and z 1.
    assert found == pytest.approx((free(0.4 / 1.5) + free(0.8 / 1.5)) / 2)
    # A value that is no function of the half stays.
    assert marks("rmse", noise_free=0.1).of("delta", "rmse").noise_free == pytest.approx(0.1)


def test_without_values_by_condition_of_every_fold_they_are_means_over_folds_and_say_so() -> None:
    whole = marks("rmse")
    for known in ({}, {"a": whole._conditions["a"]}):
        found = PooledMarks(whole._bounds, TESTED, known)
        assert found.of("delta", "rmse").control_mean == pytest.approx(0.45)
        assert found.why_over_splits("delta", "rmse") == reasons.OVER_FOLDS_YET
    assert whole.why_over_splits("delta", "rmse") is None
    # A ratio of sums is no mean of conditions.
    assert whole.why_over_splits("calibrated", "headline") == reasons.OVER_FOLDS
    apart = PooledMarks(whole._bounds, {"a": ["x"], "b": ["y"]}, {})
    assert apart.why_over_splits("delta", "rmse") is None


def test_values_by_condition_are_read_as_they_were_written(tmp_path: Path) -> None:
    values = {(CONTROL, "rmse"): np.asarray([0.1, np.nan])}
    ConditionBounds(("x|A|||", "x|Ä+B|||"), values).write(tmp_path / "one.npz")
    ConditionBounds(("x|A|||", "x|Ä+B|||"), {(HALF, "hits.n"): np.zeros(2)}).write(tmp_path / "two.npz")
    found = read_condition_bounds([tmp_path / "one.npz", tmp_path / "two.npz"])
    assert found is not None
    assert found.conditions == ("x|A|||", "x|Ä+B|||")
    np.testing.assert_array_equal(found.values[CONTROL, "rmse"], [0.1, np.nan])
    ConditionBounds(("x|A|||",), {(HALF, "hits.n"): np.zeros(1)}).write(tmp_path / "two.npz")
    assert read_condition_bounds([tmp_path / "one.npz", tmp_path / "two.npz"]) is None
    assert read_condition_bounds([]) is None


def test_the_floor_control_is_the_value_of_the_entry_that_predicts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Doubles of two held-out genes are tested in two folds."""
    score_only(monkeypatch, "delta")
    none: dict[str, Any] = {"ceiling": {}, "floor": {}}
    monkeypatch.setattr("perturbfm_core.pipeline.split.panel_bounds", lambda *_, **__: none)
    perts = ["g0", "g1", "g2", "g3", "g4", "g5", "g0+g1", "g1+g2", "g2+g3", "g0+g4", "g3+g5"]
    rows = grid_rows(perts, ["x"], reps=4, controls=8)
    rng = np.random.default_rng(3)
    shift = {p: rng.normal(size=12) * (3 if "+" in p else 1) for p in perts}
    X = np.stack([2 + shift.get(r[0], np.zeros(12)) + rng.normal(size=12) for r in rows])
    ds = screen(rows, X=np.maximum(X, 0), genes=12)
    store = ArtifactStore()
    spec = SplitSpec(kind="perturbation_ood", folds=3, validation="none", calibration="none")
    splits = [split for split, _, _ in freeze_split(store, ds, spec)]
    files = {p: p.read_bytes() for p in store.split_dir.iterdir()}
    for split in splits:
        pfm.run(ds, split, "control_only", store=store)

    def board() -> pd.DataFrame:
        rank(store, page=False)
        return database.query(store, "SELECT * FROM leaderboard WHERE panel = 'delta'").set_index("metric")

    found = board()
    assert found["marks_reason"].isna().all()
    both = found[["value", "control_mean_floor"]].astype(float)
    assert both["value"].notna().sum() > 8
    np.testing.assert_allclose(both["control_mean_floor"], both["value"], rtol=1e-6)
    half = found["ceiling"].astype(float)
    # As where the folds were frozen before there were values by condition.
    kept = {f: f.read_bytes() for split in splits for f in stored_condition_bounds(store, split)}
    assert len(kept) == len(splits)
    for file in kept:
        file.unlink()
        file.parent.rmdir()
    over_folds = board()
    assert set(over_folds["marks_reason"].dropna()) == {reasons.OVER_FOLDS_YET}
    assert over_folds.loc["rmse", "control_mean_floor"] != pytest.approx(both.loc["rmse", "value"], rel=1e-3)
    for split in splits:
        stats_with_bounds(store, ds, split)
    np.testing.assert_array_equal(board()["ceiling"].astype(float), half)
    assert {p: p.read_bytes() for p in store.split_dir.iterdir()} == files
