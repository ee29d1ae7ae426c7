"""Ceilings and floors: what noise scores, what a real effect allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.evaluation.ceilings import bounds_of
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.pipeline.split import split_stats
from tests.support.factories import grid_rows, screen, split_one
from tests.support.noisy_screen import GENES, held_out, noisy

DELTA = [m.name for m in PANELS.get("delta").metrics]


def bounds(ds: PerturbDataset, halvings: int = 8) -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """Return ceiling, floor and the mark of a data set without signal."""
    return bounds_of(ds, held_out(ds), halvings=halvings)


@pytest.fixture(scope="module")
def noise() -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """Return the bounds of pure noise with controls of two roles."""
    ds = noisy(effect=0.0, controls=120, contexts="x")
    assert not ds.controls.shared.any()
    return bounds(ds)


@pytest.fixture(scope="module")
def noise_shared() -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """Return the bounds of pure noise with few controls, which both sides subtract."""
    ds = noisy(effect=0.0, controls=24, contexts="x")
    assert ds.controls.shared.all()
    return bounds(ds)


@pytest.fixture(scope="module")
def strong() -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """Return the bounds of an effect as large as the noise of one cell."""
    return bounds(noisy(effect=1.0, controls=120))


# ---- noise ------------------------------------------------------------------------------------------------


def test_pure_noise_has_no_signal(noise: Any, noise_shared: Any) -> None:
    for ceiling, _, no_signal in (noise, noise_shared):
        assert no_signal is True
        assert abs(ceiling["pearson"]["half"]) < 0.1


@pytest.mark.parametrize("metric", ["pearson", "cosine"])
def test_the_null_floor_is_zero_only_with_controls_apart(noise: Any, noise_shared: Any, metric: str) -> None:
    assert abs(noise[1]["null"][metric]) < 0.15
    assert noise_shared[1]["null"][metric] > 0.4


def test_shared_controls_lift_the_train_mean_on_pure_noise(noise: Any, noise_shared: Any) -> None:
    assert abs(noise[1]["train_mean"]["pearson"]) < 0.2
    assert noise_shared[1]["train_mean"]["pearson"] > 0.4


# ---- signal -----------------------------------------------------------------------------------------------


def test_a_strong_effect_has_a_high_ceiling(strong: Any) -> None:
    ceiling, floor, no_signal = strong
    assert no_signal is False
    assert ceiling["pearson"]["half"] > 0.9
    assert ceiling["retrieval_rank"]["half"] == pytest.approx(0.0, abs=0.01)
    assert ceiling["pearson"]["half"] > floor["train_mean"]["pearson"] + 0.3
    # The train mean of an effect that is resampled from controls is noise again.
    assert abs(floor["null"]["pearson"]) < 0.15


def test_a_stronger_effect_has_a_higher_ceiling(noise: Any, strong: Any) -> None:
    weak = bounds(noisy(effect=0.2, controls=120))[0]
    assert noise[0]["pearson"]["half"] < weak["pearson"]["half"] < strong[0]["pearson"]["half"]


def test_correlations_are_stepped_up_to_the_whole_and_to_a_noise_free_predictor(strong: Any) -> None:
    for name, item in strong[0].items():
        if name.startswith(("pearson", "cosine")):
            half = item["half"]
            assert item["spearman_brown"] == pytest.approx(2 * half / (1 + half))
            assert item["noise_free"] == pytest.approx(item["spearman_brown"] ** 0.5)
        else:
            assert set(item) == {"half"}


def test_a_negative_ceiling_is_not_stepped_up() -> None:
    # One control of each half, and one cell: anticorrelated at random, for some seed.
    ds = noisy(effect=0.0, controls=4, reps=2)
    for seed in range(20):
        ceiling, _, _ = bounds_of(ds, held_out(ds), halvings=1, seed=seed)
        if ceiling["pearson"]["half"] < 0:
            break
    assert ceiling["pearson"]["half"] < 0
    assert (ceiling["pearson"]["spearman_brown"], ceiling["pearson"]["noise_free"]) == (0.0, 0.0)


def test_the_error_of_halves_is_that_of_their_noise(noise: Any) -> None:
    # 12 cells minus 60 controls on either side: the difference has variance 2 (1/12 + 1/60).
    assert noise[0]["rmse"]["half"] == pytest.approx((2 * (1 / 12 + 1 / 60)) ** 0.5, rel=0.05)


# ---- what is stated ---------------------------------------------------------------------------------------


def test_every_metric_has_a_ceiling_and_floors(strong: Any) -> None:
    ceiling, floor, _ = strong
    assert list(ceiling) == DELTA
    assert set(floor) == {"control_mean", "train_mean", "null"}
    for scores in floor.values():
        assert list(scores) == DELTA


def test_no_change_has_an_error_and_no_similarity(strong: Any) -> None:
    floor = strong[1]["control_mean"]
    assert floor["pearson"] is None
    assert floor["cosine"] is None
    assert floor["rmse"] == pytest.approx(1.0, rel=0.2)
    assert floor["retrieval_rank"] == 0.5


def test_the_train_mean_earns_nothing_centered(strong: Any) -> None:
    for floor in (strong[1]["train_mean"], strong[1]["null"]):
        assert {name for name, value in floor.items() if value is None} == {
            n for n in DELTA if "centered" in n
        }


def test_floors_and_ceilings_without_target_leave_the_target_out() -> None:
    # Each perturbation changes its own gene alone: without that gene there is nothing to predict.
    rows = grid_rows(["g0", "g1"], ["x", "y"], reps=24, controls=120)
    X = 5 + 0.2 * np.random.default_rng(1).normal(size=(len(rows), GENES))
    for i, (pert, _) in enumerate(rows):
        if pert != "control":
            X[i, int(pert[1])] += 4.0
    ds = screen(rows, X=np.maximum(X, 0), genes=GENES)
    ceiling, floor, _ = bounds_of(ds, split_one(ds, "context_ood", {"holdout": ["x"]}), halvings=4)
    for name in ("pearson", "cosine"):
        assert ceiling[name]["half"] > 0.9
        assert abs(ceiling[f"{name}_no_target"]["half"]) < 0.3
        assert floor["train_mean"][name] > 0.6
        assert abs(floor["train_mean"][f"{name}_no_target"]) < 0.3
    assert floor["control_mean"]["rmse"] > 0.6
    assert floor["control_mean"]["rmse_no_target"] < 0.2


def test_bounds_are_the_same_for_the_same_seed() -> None:
    ds = noisy(effect=0.5, controls=120, reps=6)
    first = bounds_of(ds, held_out(ds), halvings=3, seed=1)
    assert first == bounds_of(ds, held_out(ds), halvings=3, seed=1)
    assert first != bounds_of(ds, held_out(ds), halvings=3, seed=2)


def test_progress_is_reported() -> None:
    ds, reported = noisy(effect=0.5, controls=20, reps=4), []
    bounds_of(ds, held_out(ds), halvings=3, progress=lambda done, n: reported.append((done, n)))
    assert reported == [(1, 3), (2, 3), (3, 3)]


# ---- what cannot be known ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"level": "condition"}, id="conditions"),
        pytest.param({"space": "delta"}, id="differences of cells"),
        pytest.param({"space": "zscore", "level": "condition"}, id="z-scores"),
    ],
)
def test_data_without_cells_and_controls_give_a_reason(metadata: dict[str, Any]) -> None:
    ds = noisy(effect=1.0, controls=20, reps=4, **metadata)
    ceiling, floor, no_signal = bounds(ds)
    reason = {"reason": "the data set has no single cells with controls"}
    assert (ceiling, floor["null"], no_signal) == (reason, reason, None)
    for name in ("control_mean", "train_mean"):
        assert list(floor[name]) == DELTA
        assert floor[name]["rmse"] > 0


def test_statistics_of_a_split_without_bounds_do_not_mark_it(noise: Any) -> None:
    ds = noisy(effect=1.0, controls=20, reps=4, level="condition")
    stats = split_stats(ds, held_out(ds))
    assert stats.no_signal is None
    assert stats.ceiling == {"reason": "the data set has no single cells with controls"}


@pytest.mark.parametrize(
    ("controls", "reps"),
    [
        pytest.param(20, 1, id="one cell of each condition"),
        pytest.param(1, 8, id="one control of each context"),
    ],
)
def test_data_without_two_halves_have_no_ceiling(controls: int, reps: int) -> None:
    ceiling, floor, no_signal = bounds(noisy(effect=1.0, controls=controls, reps=reps))
    assert no_signal is None
    assert {name: item["half"] for name, item in ceiling.items()} == dict.fromkeys(DELTA)
    assert all(set(item) == {"half"} for item in ceiling.values())
    assert floor["control_mean"]["rmse"] > 0


def test_conditions_of_one_cell_are_left_out_of_the_ceiling() -> None:
    full = noisy(effect=2.0, controls=120)
    mine = ((full.obs["pert_id"] == "g1") & (full.obs["context_id"] == "x")).to_numpy()
    keep = np.flatnonzero(~mine | (np.cumsum(mine) == 1))
    rows = [(str(full.obs["pert_id"].iloc[i]), str(full.obs["context_id"].iloc[i])) for i in keep]
    ds = screen(rows, X=full.values.expression[keep], genes=GENES)
    assert len(keep) == full.n_obs - 23
    # Counted as no agreement at all, it would pull the mean of six conditions below 5/6.
    assert bounds(ds)[0]["pearson"]["half"] > 0.9
