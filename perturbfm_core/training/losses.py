"""Losses on condition means with known sampling variance, vectorised over conditions [n] and genes [G].

Quantities that depend on the measured deltas alone (`noise_weights`, `direction_target`, `pair_distances`)
are computed once and indexed by row in the loss. All deltas are in log1p units, variances in their square.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor

_DISTANCE_FLOOR = 1e-3


# ---- mean ------------------------------------------------------------------------------------------------


def signal_variance(y: Tensor, s2: Tensor, floor: float = 0.1) -> Tensor:
    """Return tau [G], each gene's variance over conditions in excess of the sampling variance.

    It is the variance of `y` over conditions minus the mean of `s2`, but at least `floor` times the mean
    variance over genes, so that no gene is assumed to carry no signal.

    Parameters
    ----------
    y, s2
        float [n, G], measured deltas and their sampling variances.
    floor
        Lower bound of tau, as a share of the mean variance over genes.
    """
    # Measured variance = signal variance + mean sampling variance; the difference estimates the signal.
    variance = y.var(dim=0, correction=0)
    least = floor * variance.mean() + torch.finfo(y.dtype).tiny
    return torch.maximum(variance - s2.mean(dim=0), least)


def noise_weights(s2: Tensor, tau: Tensor | float, rows: Tensor | None = None) -> Tensor:
    """Return [n, G] weights ``1 / (s2 + tau)``, scaled to a mean of 1.

    This is the inverse of the total variance of a measured delta around its gene's mean: the inverse signal
    variance of the gene for a precisely measured value, less for a noisy one.

    Parameters
    ----------
    s2
        float [n, G], sampling variance of the measured mean; zero where it is unknown.
    tau
        [G] or one number > 0, variance of the signal.
    rows
        float [n], weights of the conditions, such as ``combo_weight`` for combinations.
    """
    weights = 1.0 / (s2 + tau)
    if rows is not None:
        weights = weights * rows[:, None]
    return weights / weights.mean()


def noise_weighted_mse(mu: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of ``weights * (mu - y)**2`` over conditions and genes.

    Parameters
    ----------
    mu, y
        float [n, G], predicted and measured deltas.
    weights
        float [n, G], as returned by `noise_weights` for the same rows.
    """
    return (weights * (mu - y).square()).mean()


# ---- direction -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DirectionTarget:
    """Measured directions with which predicted directions are compared.

    Attributes
    ----------
    center
        float [G], mean delta of the train conditions.
    unit
        float [n, G], centred measured deltas divided by (norm + `offset`).
    offset
        Scalar, a tenth of the median norm of the centred deltas: much shorter vectors have no meaningful
        direction.
    reliability
        float [n] in [0, 1]: the share of the squared norm that is not sampling noise.
    """

    center: Tensor
    unit: Tensor
    offset: Tensor
    reliability: Tensor


def direction_target(y: Tensor, s2: Tensor, *, offset: float = 0.1) -> DirectionTarget:
    """Return the target of `direction_loss`, computed from the train conditions.

    Parameters
    ----------
    y, s2
        float [n, G], measured deltas and their sampling variances.
    offset
        Added to the norms, as a share of their median.
    """
    center = y.mean(dim=0)
    centred = y - center
    norm = torch.linalg.vector_norm(centred, dim=1)
    # torch.quantile averages the middle pair of an even number; torch.median would take the lower one.
    added = offset * torch.quantile(norm, 0.5)
    tiny = torch.finfo(y.dtype).tiny
    signal = norm.square()
    # E|y|^2 = |true delta|^2 + sum of s2, so the share of signal is 1 - sum(s2) / |y|^2, kept in [0, 1].
    reliability = ((signal - s2.sum(dim=1)) / signal.clamp_min(tiny)).clamp(0.0, 1.0)
    return DirectionTarget(center, centred / (norm + added).clamp_min(tiny)[:, None], added, reliability)


def direction_loss(mu: Tensor, target: DirectionTarget, rows: Tensor) -> Tensor:
    """Return the mean over conditions of ``reliability * (1 - cosine)`` of centred deltas.

    The denominators of the cosine have an offset, so that it is smooth at zero and short vectors cannot reach
    1. The mean is over all conditions, reliable or not, so that a data set of null effects contributes almost
    nothing.

    Parameters
    ----------
    mu
        float [B, G], predicted deltas.
    target
        As returned by `direction_target`.
    rows
        int64 [B], the conditions of `mu` in `target`.
    """
    centred = mu - target.center
    norm: Tensor = torch.linalg.vector_norm(centred, dim=1) + target.offset
    cosine = (centred * target.unit[rows]).sum(dim=1) / norm.clamp_min(torch.finfo(mu.dtype).tiny)
    return (target.reliability[rows] * (1.0 - cosine)).mean()


# ---- variance --------------------------------------------------------------------------------------------


def beta_nll(mean: Tensor, var: Tensor, y: Tensor, beta: float = 0.5) -> Tensor:
    """Return the beta-weighted Gaussian negative log-likelihood, without its constant.

    ``mean(sg(var)**beta * (log var + (y - mean)**2 / var) / 2)``, where sg stops the gradient: beta = 0 is
    the likelihood, beta = 1 gives all residuals the same weight (Seitzer et al., ICLR 2022). Pass
    ``mean.detach()`` to fit the variance alone.

    Parameters
    ----------
    mean, var, y
        float [n, G], predicted mean, predictive variance > 0 (including the sampling noise), and measured
        value.
    beta
        Exponent of the weight, from 0 to 1.
    """
    nll = 0.5 * (var.log() + (y - mean).square() / var)
    # The plain likelihood scales the gradient of the mean by 1 / var, so that noisy entries are hardly
    # fitted; var^beta undoes that (fully for beta = 1). Detached, it only reweights and adds no gradient of
    # its own.
    weight = var.detach().pow(beta)
    return (weight * nll).mean()


# ---- distances -------------------------------------------------------------------------------------------


def pair_distances(y: Tensor, s2: Tensor | None = None) -> Tensor:
    """Return [n, n] squared Euclidean distances between rows, by one matrix product.

    Parameters
    ----------
    y
        float [n, G], deltas.
    s2
        float [n, G], sampling variances; their contribution to the expected distance is subtracted, down to
        zero.
    """
    # Distances do not depend on the centre; centring reduces cancellation in |a|^2 + |b|^2 - 2 a.b.
    centred = y - y.mean(dim=0)
    norm = centred.square().sum(dim=1)
    squared = norm[:, None] + norm[None, :] - 2.0 * (centred @ centred.T)
    if s2 is not None:
        # E|y_i - y_j|^2 = |true difference|^2 + sum of s2_i + sum of s2_j.
        noise = s2.sum(dim=1)
        squared = squared - noise[:, None] - noise[None, :]
    return squared.clamp_min(0.0)


def distance_loss(mu: Tensor, squared: Tensor, rows: Tensor) -> Tensor:
    """Return the error of predicted distances between conditions, a penalty on predictions that are equal.

    It is the mean squared difference of predicted and measured distances over the pairs of the batch, divided
    by the mean squared measured distance of all pairs: near 1 if all predictions are equal, 0 if all
    distances are right. A batch of one condition has no pairs and no loss.

    Parameters
    ----------
    mu
        float [B, G], predicted deltas.
    squared
        float [n, n], squared measured distances of all conditions, as returned by `pair_distances`.
    rows
        int64 [B], the conditions of `mu` in `squared`.
    """
    if len(rows) < 2:
        return mu.sum() * 0.0
    i, j = torch.triu_indices(len(rows), len(rows), offset=1, device=mu.device)
    wanted = squared[rows[i], rows[j]]
    n = len(squared)
    spread = squared.sum() / (n * (n - 1))
    # Where all measured distances are noise (spread 0), the loss is switched off by the last factor.
    scale = torch.where(spread > 0, spread, torch.ones_like(spread))
    # The gradient of a square root is infinite at zero, which is where collapsed predictions lie.
    least = _DISTANCE_FLOOR * scale
    got = (pair_distances(mu)[i, j] + least).sqrt()
    return (got - (wanted + least).sqrt()).square().mean() / scale * (spread > 0)
