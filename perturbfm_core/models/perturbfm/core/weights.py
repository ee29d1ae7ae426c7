"""Weights of a stack's members: of least squared error, and for few units nearer to the average of the good ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.schema import FloatArray

# Members are good whose error is at most this share above the least.
_GOOD = 0.1
# Two members predict the same where their errors differ by less than this share of the smaller one.
_SAME = 1e-3
# Shares of the average among which cross-validation chooses; with fewer folds the last one.
_SHARES = (0.25, 0.5)
_MIN_FOLDS = 3
_LEAST = 1e-3
# Added to the error of each member by itself, as a share of their mean: members that agree on all held-out rows share
# their weight, where rounding would give it to any of them, although they may differ for other conditions.
_APART = 1e-4
# Errors that differ by a smaller share are equal, and the first member of them is the best.
_TIED = 1e-5
# Errors of each member that are multiplied at once.
_BLOCK = 1 << 18


def error_products(errors: FloatArray) -> FloatArray:
    """Return float64 [k, k], products of the members' float32 errors [k, n], summed in double precision by blocks."""
    out = np.zeros((len(errors), len(errors)))
    for block in row_blocks(errors.shape[1], _BLOCK):
        part = errors[:, block].astype(np.float64)
        out += part @ part.T
    return out


def simplex_weights(gram: FloatArray) -> FloatArray:
    """Return the weights >= 0 with sum 1 that minimise w' gram w; members that predict the same have equal ones."""
    from scipy.optimize import nnls

    k = len(gram)
    scale = float(np.trace(gram)) / k or 1.0
    # gram = F' F, so w' gram w = |F w|^2 is a least-squares problem; a root by eigenvalues also exists where
    # members that predict the same make the matrix singular.
    values, vectors = np.linalg.eigh(gram / scale + _APART * np.eye(k))
    factor = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    # The constraint sum(w) = 1 is one more equation with a large weight.
    heavy = 1e3
    weights, _ = nnls(np.vstack([factor, heavy * np.ones((1, k))]), np.concatenate([np.zeros(k), [heavy]]))
    return np.asarray(weights / weights.sum())


def best_member(gram: FloatArray) -> int:
    """Return the position of the member with the least error, the first of those that have it up to rounding."""
    error = np.diag(gram)
    return int(np.flatnonzero(error <= (1 + _TIED) * error.min())[0])


def average_of_good(gram: FloatArray) -> FloatArray:
    """Return equal weights of the members with nearly the least error; members that predict the same count as one."""
    error = np.diag(gram)
    chosen: list[int] = []
    for i in np.argsort(np.round(error / max(error.min(), 1e-300) / _TIED), kind="stable"):
        apart = [error[i] + error[j] - 2 * gram[i, j] > _SAME * error[j] for j in chosen]
        if error[i] <= (1 + _GOOD) * error.min() and all(apart):
            chosen.append(int(i))
    out = np.zeros(len(gram))
    out[chosen] = 1.0 / len(chosen)
    return out


def weights_of_few(folds: Sequence[FloatArray]) -> FloatArray:
    """Return the weights of members [k] that are judged by few units.

    Those of least error, shrunk to the average of the good members; how far is what predicts held-out folds best, where
    there are three or more.

    Parameters
    ----------
    folds
        Products of the members' errors [k, k] on each fold, of whole units.
    """
    share = _SHARES[-1]
    if len(folds) >= _MIN_FOLDS:
        others = [np.sum([g for i, g in enumerate(folds) if i != j], axis=0) for j in range(len(folds))]
        tried = [[_mixture(rest, s) for rest in others] for s in _SHARES]
        losses = [float(np.sum([w @ g @ w for w, g in zip(ws, folds, strict=True)])) for ws in tried]
        share = _SHARES[int(np.argmin(losses))]
    weights = _mixture(np.sum(folds, axis=0), share)
    weights[weights < _LEAST] = 0.0
    return np.asarray(weights / weights.sum())


def _mixture(gram: FloatArray, share: float) -> FloatArray:
    return (1.0 - share) * simplex_weights(gram) + share * average_of_good(gram)
