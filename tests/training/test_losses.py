"""Losses against numbers worked out by hand, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perturbfm_core.training.losses import (
    beta_nll,
    direction_loss,
    direction_target,
    distance_loss,
    noise_weighted_mse,
    noise_weights,
    pair_distances,
    signal_variance,
)


def t(values, dtype=torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def random(*shape, seed=0) -> torch.Tensor:
    return t(np.random.default_rng(seed).normal(size=shape))


# ---- mean ----------------------------------------------------------------------------------------------------


def test_signal_variance_is_the_spread_beyond_sampling_noise():
    y = t([[0.0, 0.0, 5.0], [4.0, 2.0, 5.0]])  # variances over conditions: 4, 1, 0; their mean 5/3
    s2 = t([[1.0, 2.0, 0.0], [2.0, 2.0, 0.0]])  # means: 1.5, 2, 0
    torch.testing.assert_close(signal_variance(y, s2), t([2.5, 0.1 * 5 / 3, 0.1 * 5 / 3]))


def test_noise_weights_are_inverse_variances_of_mean_one():
    s2 = t([[0.0, 1.0], [3.0, 1.0]])
    # 1/(0+1), 1/(1+2), 1/(3+1), 1/(1+2) = 12, 4, 3, 4 twelfths, mean 5.75 twelfths
    torch.testing.assert_close(noise_weights(s2, t([1.0, 2.0])), t([[12.0, 4.0], [3.0, 4.0]]) / 5.75)
    assert float(noise_weights(s2, 0.5).mean()) == pytest.approx(1.0)


def test_row_weights_scale_whole_conditions():
    weights = noise_weights(torch.zeros(2, 3, dtype=torch.float64), 1.0, rows=t([1.0, 3.0]))
    torch.testing.assert_close(weights, t([[0.5] * 3, [1.5] * 3]))


def test_noise_weighted_mse_by_hand():
    mu, y = t([[1.0, 2.0]]), t([[0.0, 4.0]])
    assert float(noise_weighted_mse(mu, y, t([[1.5, 0.5]]))) == pytest.approx((1.5 * 1 + 0.5 * 4) / 2)


def test_a_noisy_value_teaches_less():
    mu = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    weights = noise_weights(t([[0.0, 9.0]]), 1.0)
    noise_weighted_mse(mu, t([[1.0, 1.0]]), weights).backward()
    assert float(mu.grad[0, 0] / mu.grad[0, 1]) == pytest.approx(10.0)


# ---- direction -----------------------------------------------------------------------------------------------


def test_direction_target_by_hand():
    y = t([[5.0, 0.0], [-3.0, 0.0], [1.0, 6.0], [1.0, -6.0]])
    s2 = t([[4.0, 4.0], [20.0, 20.0], [0.0, 9.0], [0.0, 0.0]])
    target = direction_target(y, s2)
    torch.testing.assert_close(target.center, t([1.0, 0.0]))
    # centred norms 4, 4, 6, 6: median 5, offset 0.5
    assert float(target.offset) == pytest.approx(0.5)
    torch.testing.assert_close(
        target.unit, t([[4 / 4.5, 0.0], [-4 / 4.5, 0.0], [0.0, 6 / 6.5], [0.0, -6 / 6.5]])
    )
    # 1 - 8/16, 1 - 40/16 clipped to 0, 1 - 9/36, 1
    torch.testing.assert_close(target.reliability, t([0.5, 0.0, 0.75, 1.0]))


def test_direction_loss_by_hand():
    y = t([[5.0, 0.0], [-3.0, 0.0], [1.0, 6.0], [1.0, -6.0]])
    s2 = t([[4.0, 4.0], [20.0, 20.0], [0.0, 9.0], [0.0, 0.0]])
    target = direction_target(y, s2)
    mu = t([[4.0, 4.0], [1.0, 2.0]])  # centred (3, 4) of norm 5, and (0, 2) of norm 2
    first = 0.5 * (1 - (4 / 4.5) * 3 / 5.5)
    second = 0.75 * (1 - (6 / 6.5) * 2 / 2.5)
    assert float(direction_loss(mu, target, torch.tensor([0, 2]))) == pytest.approx((first + second) / 2)


def test_direction_does_not_depend_on_the_length_of_long_predictions():
    y = random(6, 9)
    target = direction_target(y, torch.zeros_like(y))
    rows = torch.arange(6)
    far = target.center + 1e6 * (y - target.center)
    near_one = 1 - torch.linalg.vector_norm(target.unit, dim=1)
    assert float(direction_loss(far, target, rows)) == pytest.approx(float(near_one.mean()), abs=1e-6)
    opposite = target.center - 1e6 * (y - target.center)
    assert float(direction_loss(opposite, target, rows)) == pytest.approx(
        float((2 - near_one).mean()), abs=1e-6
    )


def test_null_effects_teach_no_direction():
    y = random(4, 5)
    target = direction_target(y, torch.full_like(y, 100.0))
    mu = random(4, 5, seed=1).requires_grad_()
    loss = direction_loss(mu, target, torch.arange(4))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(mu.grad.abs().max()) == 0.0


@pytest.mark.parametrize("n", [1, 3])
def test_direction_is_finite_where_there_is_none(n):
    """One condition, or all the same, lie at the centre: no direction, no NaN."""
    y = torch.ones(n, 4, dtype=torch.float32)
    target = direction_target(y, torch.zeros_like(y))
    mu = y.clone().requires_grad_()
    loss = direction_loss(mu, target, torch.arange(n))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.isfinite(mu.grad).all()


def test_direction_has_a_gradient_at_the_centre():
    y = random(4, 5)
    target = direction_target(y, torch.zeros_like(y))
    mu = target.center.expand(4, 5).clone().requires_grad_()
    direction_loss(mu, target, torch.arange(4)).backward()
    # The slope of the cosine there: minus the unit target over the offset, over four conditions.
    torch.testing.assert_close(mu.grad, -target.unit / target.offset / 4)


# ---- variance ------------------------------------------------------------------------------------------------


def test_beta_nll_by_hand():
    mean, var, y = t([[0.0, 1.0]]), t([[4.0, 1.0]]), t([[2.0, 3.0]])
    plain = [0.5 * (math.log(4) + 1), 0.5 * 4]
    assert float(beta_nll(mean, var, y, beta=0)) == pytest.approx(sum(plain) / 2)
    assert float(beta_nll(mean, var, y)) == pytest.approx((2 * plain[0] + plain[1]) / 2)


def test_beta_nll_is_least_at_the_squared_residual():
    y, mean = t([[3.0]]), t([[1.0]])
    for beta in (0.0, 0.5, 1.0):
        var = t([[4.0]]).requires_grad_()
        beta_nll(mean, var, y, beta).backward()
        assert float(var.grad) == pytest.approx(0.0, abs=1e-12)


def test_beta_weighs_gradients_by_the_variance():
    y, mean, var = t([[2.0, 2.0]]), torch.zeros(1, 2, dtype=torch.float64), t([[1.0, 16.0]])
    for beta in (0.0, 0.5, 1.0):
        m = mean.clone().requires_grad_()
        beta_nll(m, var, y, beta).backward()
        # d/dm = -var**beta * (y - m) / var, over two values
        torch.testing.assert_close(m.grad, -(var**beta) * 2.0 / var / 2)


def test_a_detached_mean_gets_no_gradient():
    mean, log_var = torch.zeros(2, 2, requires_grad=True), torch.zeros(2, 2, requires_grad=True)
    beta_nll(mean.detach(), log_var.exp(), torch.ones(2, 2)).backward()
    assert mean.grad is None
    assert log_var.grad is not None


# ---- distances -----------------------------------------------------------------------------------------------


def test_pair_distances_by_hand():
    y = t([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    torch.testing.assert_close(pair_distances(y), t([[0.0, 25.0, 1.0], [25.0, 0.0, 18.0], [1.0, 18.0, 0.0]]))
    s2 = t([[0.5, 0.5], [1.0, 1.0], [3.0, 3.0]])
    expected = t([[0.0, 22.0, 0.0], [22.0, 0.0, 10.0], [0.0, 10.0, 0.0]])
    torch.testing.assert_close(pair_distances(y, s2), expected)


def test_distance_loss_is_zero_for_right_distances_and_near_one_for_none():
    y = random(7, 5)
    squared, rows = pair_distances(y), torch.arange(7)
    turned = y @ torch.linalg.qr(random(5, 5, seed=1))[0] + 3.0
    assert float(distance_loss(turned, squared, rows)) == pytest.approx(0.0, abs=1e-12)
    collapsed = torch.zeros_like(y)
    assert 0.85 < float(distance_loss(collapsed, squared, rows)) < 1.0
    assert float(distance_loss(0.5 * y, squared, rows)) < float(distance_loss(collapsed, squared, rows))


def test_distance_loss_uses_the_rows_of_its_batch():
    y = random(7, 5)
    squared, rows = pair_distances(y), torch.tensor([4, 1, 6])
    assert float(distance_loss(y[rows], squared, rows)) == pytest.approx(0.0, abs=1e-12)
    assert float(distance_loss(y[:3], squared, rows)) > 1e-3


def test_distance_loss_pulls_collapsed_predictions_apart_and_is_finite():
    y = random(4, 3)
    mu = (1e-4 * random(4, 3, seed=2)).requires_grad_()
    distance_loss(mu, pair_distances(y), torch.arange(4)).backward()
    assert torch.isfinite(mu.grad).all()
    assert float(mu.grad.abs().max()) > 0
    exact = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    distance_loss(exact, pair_distances(y), torch.arange(4)).backward()
    assert torch.isfinite(exact.grad).all()


@pytest.mark.parametrize("rows", [[2], [0, 1]])
def test_distance_loss_of_nothing_to_compare_is_zero(rows):
    """One condition has no pair; conditions that only noise tells apart have no distance."""
    y = random(3, 2)
    squared = pair_distances(y) if len(rows) == 1 else torch.zeros(3, 3, dtype=torch.float64)
    mu = random(len(rows), 2, seed=3).requires_grad_()
    loss = distance_loss(mu, squared, torch.tensor(rows))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(mu.grad.abs().max()) == 0.0


# ---- gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mse", "direction", "nll mean", "nll variance", "distance"])
def test_gradients_are_those_of_finite_differences(name):
    y, s2 = random(4, 3), random(4, 3, seed=5).square() / 10
    mu = random(4, 3, seed=6).requires_grad_()
    rows = torch.arange(4)
    target, squared = direction_target(y, s2), pair_distances(y)
    functions = {
        "mse": lambda m: noise_weighted_mse(m, y, noise_weights(s2, 0.5)),
        "direction": lambda m: direction_loss(m, target, rows),
        "nll mean": lambda m: beta_nll(m, 1.0 + s2, y),
        # The stopped factor is no part of the function, so its derivative is checked without it.
        "nll variance": lambda m: beta_nll(y + 1.0, m.exp(), y, beta=0),
        "distance": lambda m: distance_loss(m, squared, rows),
    }
    assert torch.autograd.gradcheck(functions[name], (mu,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_keep_the_dtype(dtype):
    y, s2 = random(4, 3).to(dtype), torch.full((4, 3), 0.1, dtype=dtype)
    rows = torch.arange(4)
    values = [
        noise_weighted_mse(y + 1, y, noise_weights(s2, signal_variance(y, s2))),
        direction_loss(y + 1, direction_target(y, s2), rows),
        beta_nll(y + 1, s2, y),
        distance_loss(2 * y, pair_distances(y, s2), rows),
    ]
    assert [v.dtype for v in values] == [dtype] * 4
    assert all(v.ndim == 0 and torch.isfinite(v) for v in values)
