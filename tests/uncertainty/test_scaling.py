"""Post-hoc scaling of the variance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.uncertainty.config import ScaleConfig
from perturbfm_core.uncertainty.groups import perturbations
from perturbfm_core.uncertainty.scaling import Scaling
from tests.support.factories import conditions_of
from tests.support.residuals import residuals_of

ONE = ScaleConfig(gene_scale=False, effect=False, stratum=False)


def scaled(residuals: OutOfFold, config: ScaleConfig, bins: np.ndarray | None = None) -> Scaling:
    genes = residuals.truth.shape[1]
    return Scaling.fit(
        residuals,
        np.zeros(genes, dtype=np.int16) if bins is None else bins,
        config,
        perturbations(residuals.fitted[0]),
    )


def test_one_factor_is_the_mean_squared_error_in_variances() -> None:
    # Squared errors over the variance 4: units 1, 2, 3 ... of 12, the ends drawn in to the 10th and 90th percentile.
    error = 2 * np.sqrt(np.arange(1.0, 13))
    residuals = residuals_of(np.repeat(error[:, None], 3, axis=1), np.zeros(3), 4.0)
    expected = np.mean(np.clip(np.arange(1.0, 13), 2, 11))
    assert scaled(residuals, ONE).factor.tolist() == pytest.approx([expected], rel=1e-6)


def test_an_outlying_unit_hardly_moves_the_factor() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 200))
    plain = scaled(residuals_of(truth, np.zeros(200)), ONE).factor[0]
    truth[7] *= 1000
    assert scaled(residuals_of(truth, np.zeros(200)), ONE).factor[0] == pytest.approx(plain, rel=0.05)
    assert plain == pytest.approx(1.0, rel=0.05)


def test_a_gene_that_is_on_in_one_condition_hardly_moves_the_factor_of_its_bin() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 200))
    plain = scaled(residuals_of(truth, np.zeros(200)), ONE).factor[0]
    for rows in (slice(3, 4), slice(0, 40, 3)):
        for genes in (slice(5, 6), slice(10, 18)):
            on = truth.copy()
            on[rows, genes] += 300
            found = scaled(residuals_of(on, np.zeros(200)), ONE).factor[0]
            assert found == pytest.approx(plain, rel=0.1)


def test_rows_of_one_unit_count_as_one() -> None:
    truth = np.sqrt(np.asarray([[1.0], [4.0], [4.0], [4.0]]))
    rows = [("x", "A"), ("x", "B"), ("y", "B"), ("z", "B")]
    residuals = residuals_of(truth, np.zeros(1), rows=rows)
    assert scaled(residuals, ONE).factor[0] == pytest.approx(2.5)


def test_bins_of_genes_have_factors_of_their_own() -> None:
    rng = np.random.default_rng(1)
    bins = np.repeat(np.asarray([0, 1], dtype=np.int16), 300)
    truth = rng.normal(size=(60, 600)) * np.where(bins == 0, 0.5, 3.0)
    residuals = residuals_of(truth, np.zeros(600))
    found = scaled(residuals, ScaleConfig(effect=False, stratum=False), bins)
    assert found.factor.tolist() == pytest.approx([0.25, 9.0], rel=0.05)
    after = found.apply_to_residuals(residuals).prediction.var
    np.testing.assert_allclose(after, np.broadcast_to(found.factor[bins], after.shape), rtol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.5])
def test_the_slope_is_the_power_of_the_effect_size_that_errors_grow_with(power: float) -> None:
    rng = np.random.default_rng(2)
    size = np.exp(rng.normal(size=(150, 1)))
    mean = size * np.ones((150, 80))
    truth = mean + size ** (power / 2) * rng.normal(size=(150, 80))
    found = scaled(residuals_of(truth, mean), ScaleConfig(gene_scale=False, stratum=False))
    assert found.slope == pytest.approx(power, abs=0.05)


def test_a_prediction_that_does_not_vary_has_no_slope() -> None:
    rng = np.random.default_rng(3)
    # Two folds predict two different constants: no variation that a size could explain.
    mean = np.repeat([[1.0], [5.0]], 20, axis=0) * np.ones(30)
    truth = mean + np.repeat([[1.0], [9.0]], 20, axis=0) * rng.normal(size=(40, 30))
    residuals = residuals_of(truth, mean, folds=2, fitted=[["Z"], ["Z"]])
    assert scaled(residuals, ScaleConfig()).slope == 0.0


def test_effects_larger_than_any_calibrated_one_are_not_extrapolated() -> None:
    rng = np.random.default_rng(4)
    size = np.linspace(1, 10, 50)[:, None]
    truth = size * (np.ones((50, 40)) + rng.normal(size=(50, 40)))
    found = scaled(residuals_of(truth, size * np.ones(40)), ScaleConfig())
    requested = Prediction(np.asarray([[10.0] * 40, [1000.0] * 40]), np.ones((2, 40)))
    var = found.apply(requested, conditions_of([("c", "N"), ("c", "M")])).var
    np.testing.assert_allclose(var[0], var[1])


def test_a_fold_that_predicts_nothing_does_not_stretch_the_slope() -> None:
    rng = np.random.default_rng(4)
    n, genes = 40, 200
    size = rng.uniform(0.3, 3, size=(n, 1))
    mean = size * rng.normal(size=(n, genes))
    mean[30:] = 0
    truth = mean + size * rng.normal(size=(n, genes))
    conditions = conditions_of([("c", f"g{i}") for i in range(n)])
    residuals = OutOfFold(
        conditions,
        truth.astype(np.float32),
        Prediction(mean.astype(np.float32), np.ones((n, genes), dtype=np.float32)),
        [(k,) for k in conditions.index],
        np.arange(n) // 10,
        "out_of_fold",
        fitted=(frozenset(),) * 4,
    )
    found = scaled(residuals, ScaleConfig(stratum=False, gene_scale=False))
    var = found.apply_to_residuals(residuals).prediction.var
    assert found.slope > 0.5
    assert (
        np.mean(residuals.residual[:30] ** 2) / 3
        < var[:30].mean()
        < 3 * np.mean(residuals.residual[:30] ** 2)
    )
    assert 0.1 < var[30:].mean() < 10


def test_newer_conditions_have_a_larger_variance() -> None:
    rng = np.random.default_rng(5)
    rows = [("c", f"U{i}") for i in range(40)] + [("c", f"V{i}+Z") for i in range(40)]
    scale = np.repeat([1.0, 3.0], 40)[:, None]
    truth = 1.0 + scale * rng.normal(size=(80, 60))
    residuals = residuals_of(truth, np.ones(60), rows=rows, units=[(f"u{i}",) for i in range(80)])
    found = scaled(residuals, ScaleConfig(gene_scale=False))
    assert set(found.offset) == {"single:seen-0", "combo:seen-1"}
    requested = Prediction(np.ones((3, 60)), np.ones((3, 60)))
    single, combo, other = found.apply(
        requested, conditions_of([("c", "N"), ("c", "N+Z"), ("c", "N+M")])
    ).var[:, 0]
    assert single == pytest.approx(1.0, rel=0.35)
    assert combo == pytest.approx(9.0, rel=0.35)
    # A stratum that calibration lacks gets what all have in common.
    assert single < other < combo


def test_scaling_can_follow_another_step_and_drops_intervals_of_the_old_variance() -> None:
    rng = np.random.default_rng(6)
    residuals = residuals_of(rng.normal(size=(50, 20)) * 3, np.zeros(20))
    once = scaled(residuals, ONE)
    again = scaled(once.apply_to_residuals(residuals), ONE)
    assert again.factor[0] == pytest.approx(1.0, rel=1e-6)
    requested = Prediction(np.zeros((1, 20)), np.ones((1, 20)), var_epistemic=np.full((1, 20), 0.5))
    found = once.apply(requested, conditions_of([("c", "N")]))
    assert found.intervals is None
    np.testing.assert_allclose(found.var_epistemic, 0.5 * found.var, rtol=1e-6)


def test_a_saved_scaling_is_the_same() -> None:
    rng = np.random.default_rng(7)
    truth = rng.normal(size=(50, 20))
    residuals = residuals_of(truth, truth + rng.normal(size=(50, 20)))
    first = scaled(residuals, ScaleConfig(), np.arange(20, dtype=np.int16) // 10)
    second = Scaling.restore(first.arrays(), first.meta())
    requested = replace(residuals.prediction)
    conditions = conditions_of([("c", f"N{i}") for i in range(50)])
    assert np.array_equal(first.apply(requested, conditions).var, second.apply(requested, conditions).var)
