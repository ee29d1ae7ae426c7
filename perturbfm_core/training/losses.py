"""Losses on condition means with known sampling variance, vectorised over conditions [n] and genes [G].

What depends on the measured side alone (`noise_weights`, `direction_target`, `pair_distances`) is computed once
and indexed by row in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor

_DISTANCE_FLOOR = 1e-3


# ---- mean ----------------------------------------------------------------------------------------------------


def signal_variance(y: Tensor, s2: Tensor, floor: float = 0.1) -> Tensor:
    """Return tau [G], each gene's variance over conditions beyond that of sampling.

    The variance of `y` over conditions less the mean of `s2`; at least `floor` times the mean variance of all
    genes, so that no gene is taken to be free of signal.

    Parameters
    ----------
    y, s2
        [n, G] deltas and their sampling variances.
    """
    variance = y.var(dim=0, correction=0)
    least = floor * variance.mean() + torch.finfo(y.dtype).tiny
    return torch.maximum(variance - s2.mean(dim=0), least)


def noise_weights(s2: Tensor, tau: Tensor | float, rows: Tensor | None = None) -> Tensor:
    """Return [n, G] weights ``1 / (s2 + tau)``, scaled to a mean of 1.

    A value counts by how well it is known: noise-free ones by the signal they could carry, noisy ones by their
    noise.

    Parameters
    ----------
    s2
        [n, G] sampling variance of the perturbed mean; zero where it is unknown.
    tau
        [G] or one number > 0, variance of the signal.
    rows
        [n] weights of the conditions, such as ``combo_weight`` for combinations.
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
        [n, G] predicted and measured deltas.
    weights
        [n, G] as `noise_weights` returns them, of the same rows.
    """
    return (weights * (mu - y).square()).mean()


# ---- direction -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DirectionTarget:
    """What the direction of predictions is compared with.

    Attributes
    ----------
    center
        [G], the mean delta of the train conditions.
    unit
        [n, G], centred measured deltas over (norm + `offset`).
    offset
        A tenth of the median norm of the centred deltas: vectors much shorter than that have no direction.
    reliability
        [n] in [0, 1]: the share of the squared norm that is not sampling noise.
    """

    center: Tensor
    unit: Tensor
    offset: Tensor
    reliability: Tensor


def direction_target(y: Tensor, s2: Tensor, *, offset: float = 0.1) -> DirectionTarget:
    """Return the target of `direction_loss` from the train conditions.

    Parameters
    ----------
    y, s2
        [n, G] measured deltas and their sampling variances.
    offset
        Added to norms, as a share of their median.
    """
    center = y.mean(dim=0)
    centred = y - center
    norm = torch.linalg.vector_norm(centred, dim=1)
    # A middle pair is averaged, unlike torch.median, so that an even number has no preferred half.
    added = offset * torch.quantile(norm, 0.5)
    tiny = torch.finfo(y.dtype).tiny
    signal = norm.square()
    reliability = ((signal - s2.sum(dim=1)) / signal.clamp_min(tiny)).clamp(0.0, 1.0)
    return DirectionTarget(center, centred / (norm + added).clamp_min(tiny)[:, None], added, reliability)


def direction_loss(mu: Tensor, target: DirectionTarget, rows: Tensor) -> Tensor:
    """Return the mean over conditions of ``reliability * (1 - cosine)`` of centred deltas.

    The cosine's denominators have an offset, so that it is smooth at zero and short vectors cannot reach 1. The
    mean is over all conditions, reliable or not: where effects are null nothing is taught.

    Parameters
    ----------
    mu
        [B, G] predicted deltas.
    target
        As `direction_target` returns it.
    rows
        int64 [B], the conditions of `mu` in `target`.
    """
    centred = mu - target.center
    norm: Tensor = torch.linalg.vector_norm(centred, dim=1) + target.offset
    cosine = (centred * target.unit[rows]).sum(dim=1) / norm.clamp_min(torch.finfo(mu.dtype).tiny)
    return (target.reliability[rows] * (1.0 - cosine)).mean()


# ---- variance ------------------------------------------------------------------------------------------------


def beta_nll(mean: Tensor, var: Tensor, y: Tensor, beta: float = 0.5) -> Tensor:
    """Return the beta-weighted Gaussian negative log-likelihood, without its constant.

    ``mean(sg(var)**beta * (log var + (y - mean)**2 / var) / 2)`` with sg a stopped gradient: beta = 0 is the
    likelihood, beta = 1 weighs all residuals alike (Seitzer et al., ICLR 2022). Pass ``mean.detach()`` to fit
    the variance alone.

    Parameters
    ----------
    mean, var, y
        [n, G]; `var` > 0 is the whole predictive variance, sampling noise included.
    """
    nll = 0.5 * (var.log() + (y - mean).square() / var)
    weight = var.detach().pow(beta)
    return (weight * nll).mean()


# ---- distances -----------------------------------------------------------------------------------------------


def pair_distances(y: Tensor, s2: Tensor | None = None) -> Tensor:
    """Return [n, n] squared Euclidean distances between rows, by one matrix product.

    Parameters
    ----------
    y
        [n, G].
    s2
        [n, G] sampling variances; what they add to the expected distance is subtracted, down to zero.
    """
    centred = y - y.mean(dim=0)
    norm = centred.square().sum(dim=1)
    squared = norm[:, None] + norm[None, :] - 2.0 * (centred @ centred.T)
    if s2 is not None:
        noise = s2.sum(dim=1)
        squared = squared - noise[:, None] - noise[None, :]
    return squared.clamp_min(0.0)


def distance_loss(mu: Tensor, squared: Tensor, rows: Tensor) -> Tensor:
    """Return how far predicted distances between conditions are from the measured ones: a pull against collapse.

    Mean squared difference of distances over the pairs of the batch, over the mean squared measured distance of
    all pairs: near 1 if all predictions are the same, 0 if all distances are right. One condition alone has none.

    Parameters
    ----------
    mu
        [B, G] predicted deltas.
    squared
        [n, n] squared distances of all conditions, as `pair_distances` returns them.
    rows
        int64 [B], the conditions of `mu` in `squared`.
    """
    if len(rows) < 2:
        return mu.sum() * 0.0
    i, j = torch.triu_indices(len(rows), len(rows), offset=1, device=mu.device)
    wanted = squared[rows[i], rows[j]]
    n = len(squared)
    spread = squared.sum() / (n * (n - 1))
    # Conditions that noise alone tells apart pull nowhere.
    scale = torch.where(spread > 0, spread, torch.ones_like(spread))
    # The slope of a root is infinite at zero, where collapsed predictions lie.
    least = _DISTANCE_FLOOR * scale
    got = (pair_distances(mu)[i, j] + least).sqrt()
    return (got - (wanted + least).sqrt()).square().mean() / scale * (spread > 0)
