"""Scores of a Gaussian prediction: log score, CRPS and probability integral transform."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from perturbfm_core.schema import FloatArray

VAR_FLOOR = 1e-12


def nll(truth: FloatArray, mean: FloatArray, var: FloatArray) -> FloatArray:
    """Return the negative log likelihood of each value, in nats.

    Parameters
    ----------
    truth
        Observed values, any shape.
    mean, var
        Predicted mean and variance, same shape; a variance below 1e-12 counts as 1e-12.
    """
    var = np.maximum(var, VAR_FLOOR)
    return np.asarray(0.5 * (np.log(2 * np.pi * var) + (truth - mean) ** 2 / var))


def crps(truth: FloatArray, mean: FloatArray, var: FloatArray) -> FloatArray:
    """Return the continuous ranked probability score of each value, in the units of the values.

    Parameters
    ----------
    truth
        Observed values, any shape.
    mean, var
        Predicted mean and variance, same shape. For a variance of zero the score is its limit, the absolute error.
    """
    sigma = np.sqrt(var)
    z = np.divide(truth - mean, sigma, out=np.zeros(np.shape(truth)), where=sigma > 0)
    # Closed form for a Gaussian (Gneiting and Raftery 2007), with the sign of an error.
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    score = sigma * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return np.asarray(np.where(sigma > 0, score, np.abs(truth - mean)))


def pit(truth: FloatArray, mean: FloatArray, var: FloatArray) -> FloatArray:
    """Return the predicted probability of at most the observed value, uniform if the predicted distribution is right.

    Parameters
    ----------
    truth
        Observed values, any shape.
    mean, var
        Predicted mean and variance, same shape; a variance below 1e-12 counts as 1e-12.
    """
    return np.asarray(ndtr((truth - mean) / np.sqrt(np.maximum(var, VAR_FLOOR))))


def histogram(values: FloatArray, bins: int) -> FloatArray:
    """Return [C, bins], the share of each row's values (between 0 and 1) in equal bins."""
    at = np.minimum((values * bins).astype(np.int64), bins - 1)
    flat = at + bins * np.arange(len(values))[:, None]
    counts = np.bincount(flat.reshape(-1), minlength=bins * len(values)).reshape(len(values), bins)
    return np.asarray(counts / values.shape[1])
