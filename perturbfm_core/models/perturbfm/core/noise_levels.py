"""Noise level of each gene in a Gaussian process, chosen by errors on inner folds."""

from __future__ import annotations

import numpy as np

from perturbfm_core.schema import FloatArray

# Candidate noise levels lambda_g, relative to the variance of the process.
LAMBDAS = tuple(float(2.0**k) for k in range(-2, 7))
# Weight of the pooled error against a gene's own error in the choice of its noise level: 0 chooses gene by
# gene, a very large weight gives all genes the same level.
POOLING = (0.0, 0.3, 3.0, 1e6)


def noise_levels(errors: FloatArray, pooling: float) -> FloatArray:
    """Return float64 [G], the noise level with the smallest error per gene, pulled to the pooled one.

    Both errors are divided by their mean over levels; `pooling` is the weight of the pooled error.

    Parameters
    ----------
    errors
        float64 [lambdas, G], squared errors.
    pooling
        Weight of the pooled error.
    """
    own = errors / np.maximum(errors.mean(axis=0), 1e-300)
    pooled = errors.sum(axis=1) / max(float(errors.sum(axis=1).mean()), 1e-300)
    out: FloatArray = np.asarray(LAMBDAS)[np.argmin(own + pooling * pooled[:, None], axis=0)]
    return out


def crossed_errors(errors: FloatArray, pooling: float) -> FloatArray:
    """Return float64 [folds], the error of each fold at the noise levels that the other folds choose."""
    total = errors.sum(axis=0)
    position = {lam: i for i, lam in enumerate(LAMBDAS)}
    out = []
    for fold in errors:
        chosen = [position[lam] for lam in noise_levels(total - fold, pooling)]
        out.append(float(fold[chosen, np.arange(fold.shape[1])].sum()))
    return np.asarray(out)


def crossed_score(errors: FloatArray, pooling: float) -> float:
    """Return the error of all folds at the noise levels that the other folds choose."""
    return float(crossed_errors(errors, pooling).sum())
