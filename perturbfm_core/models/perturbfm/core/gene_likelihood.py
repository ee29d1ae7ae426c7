"""Likelihood of the deltas of many genes under kernels and noise levels, and what is estimated by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbfm_core.schema import FloatArray, IntArray

# Noise variances, relative to the mean variance of the process over train conditions.
LEVELS = tuple(float(x) for x in np.geomspace(0.03, 100.0, 12))
_ROUNDS = 100
_NOISE_ROUNDS = 5
_NOISE_RANGE = (0.05, 20.0)
_MIN_CONDITIONS = 20
_TINY = 1e-12
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True, eq=False)
class Decomposed:
    """A kernel K of train conditions with noise D, as D^-1/2 K D^-1/2 = Q diag(s e) Q', the mean of e being 1.

    Attributes
    ----------
    values, vectors
        float64 [n] e, and [n, n] Q.
    scale
        s, so that K / s has the noise levels of `LEVELS` relative to it.
    """

    values: FloatArray
    vectors: FloatArray
    scale: float

    def log_likelihood(self, rows: FloatArray) -> FloatArray:
        """Return float64 [levels, G], of residuals over the root of their noise [n, G].

        Each gene's own variance is the likeliest one: -n/2 log(y' (K + lambda D)^-1 y / n) - 1/2 log det(K + lambda D).
        """
        n = len(rows)
        squares = (self.vectors.T @ rows) ** 2
        total = np.asarray(self.values[None] + np.asarray(LEVELS)[:, None])
        variance = np.maximum((1.0 / total) @ squares / n, _TINY)
        return np.asarray(-0.5 * n * np.log(variance) - 0.5 * np.log(total).sum(axis=1)[:, None])

    def dual(self, rows: FloatArray, weights: FloatArray) -> FloatArray:
        """Return float64 [n, G], (K + lambda D)^-1 applied to residuals, averaged over the noise levels of each gene.

        Parameters
        ----------
        rows
            float64 [n, G], residuals over the root of their noise; so is what comes back.
        weights
            float64 [levels, G], weight of each level.
        """
        inverse = 1.0 / (self.values[None] + np.asarray(LEVELS)[:, None])
        filtered = (self.vectors.T @ rows) * (inverse.T @ weights)
        return np.asarray(self.vectors @ filtered / self.scale)

    def left_out(self, rows: FloatArray, weights: FloatArray, of: IntArray, groups: IntArray) -> FloatArray:
        """Return float64 [of, G], what is predicted of some conditions without their group, averaged as in `dual`.

        Parameters
        ----------
        rows, weights
            See `dual`.
        of
            int64, positions of the conditions.
        groups
            int64 [of], group of each: those of one are left out together.
        """
        rotated, vectors = self.vectors.T @ rows, self.vectors[of]
        together = groups[:, None] == groups[None]
        alone = len(np.unique(groups)) == len(groups)
        error = np.zeros((len(of), rows.shape[1]))
        for i in np.flatnonzero(weights.max(axis=1) > _NEGLIGIBLE):
            inverse = 1.0 / (self.values + LEVELS[i])
            dual = vectors @ (inverse[:, None] * rotated)
            # (K + lambda D)^-1 of each group; there is no more than its diagonal where each condition is one.
            if alone:
                error += weights[i] * dual / (vectors**2 @ inverse)[:, None]
            else:
                own = np.where(together, (vectors * inverse) @ vectors.T, 0.0)
                error += weights[i] * np.linalg.solve(own, dual)
        return np.asarray(rows[of] * weights.sum(axis=0) - error)


def decomposed(K: FloatArray, noise: FloatArray) -> Decomposed:
    """Return the decomposition of a kernel [n, n] whose conditions have relative noise [n]."""
    root = 1.0 / np.sqrt(noise)
    values, vectors = np.linalg.eigh(root[:, None] * K * root[None])
    # Negative eigenvalues come from rounding.
    values = np.maximum(values, _TINY)
    scale = float(values.mean())
    return Decomposed(values / scale, vectors, scale)


def shared_prior(log_likelihood: FloatArray) -> FloatArray:
    """Return float64 [kernels, levels], how often each is the one of a gene: the likeliest mixture for all genes.

    Parameters
    ----------
    log_likelihood
        float64 [kernels, levels, G].
    """
    flat = log_likelihood.reshape(-1, log_likelihood.shape[-1])
    likelihood = np.exp(flat - flat.max(axis=0))
    prior = np.full(len(flat), 1.0 / len(flat))
    for _ in range(_ROUNDS):
        posterior = likelihood * prior[:, None]
        prior = (posterior / posterior.sum(axis=0)).mean(axis=1)
    return np.asarray(prior.reshape(log_likelihood.shape[:2]))


def noise_deviation(K: FloatArray, residual: FloatArray, noise: FloatArray) -> FloatArray:
    """Return float64 [G], the standard deviation of each gene's noise at its likeliest level; 0 where nothing varies.

    Parameters
    ----------
    K
        float64 [n, n], kernel.
    residual
        float64 [n, G], deltas less their mean.
    noise
        float64 [n], relative noise variance of the conditions.
    """
    found = decomposed(K, noise)
    rows = residual / np.sqrt(noise)[:, None]
    levels = np.asarray(LEVELS)[found.log_likelihood(rows).argmax(axis=0)]
    squares = (found.vectors.T @ rows) ** 2
    variance = (squares / (found.values[:, None] + levels[None])).mean(axis=0)
    return np.asarray(np.sqrt(variance * levels))


def likeliest_noise(K: FloatArray, residual: FloatArray, noise: FloatArray) -> FloatArray:
    """Return float64 [n], the relative noise variance of each condition that makes the deltas of all genes likelier.

    Expectation maximisation with each gene at the level that is likeliest for it; a few rounds from an estimate that is
    robust. The geometric mean is 1.

    Parameters
    ----------
    K
        float64 [n, n], kernel.
    residual
        float64 [n, G], deltas less their mean.
    noise
        float64 [n], the estimate to begin with.
    """
    moving = residual.std(axis=0) > 0
    if len(noise) < _MIN_CONDITIONS or not moving.any():
        return noise
    residual = residual[:, moving]
    for _ in range(_NOISE_ROUNDS):
        found = decomposed(K, noise)
        root = np.sqrt(noise)[:, None]
        rows = residual / root
        rotated = found.vectors.T @ rows
        best = found.log_likelihood(rows).argmax(axis=0)
        total = np.zeros(len(noise))
        for i in np.unique(best):
            at, level = best == i, LEVELS[i]
            inverse = 1.0 / (found.values + level)
            variance = np.maximum((inverse[:, None] * rotated[:, at] ** 2).mean(axis=0), _TINY)
            # Expected square of the noise given the deltas, relative to level and variance of the gene [n, G].
            error = level * (found.vectors @ (inverse[:, None] * rotated[:, at]))
            left = level - level**2 * (found.vectors**2 @ inverse)
            total += ((error**2 / variance + left[:, None]) / level).sum(axis=1)
        noise = noise * total / len(best)
        noise = np.clip(noise / np.exp(np.mean(np.log(noise))), *_NOISE_RANGE)
    return noise
