"""Kernel regression with inducing rows: cost and memory grow with the number of rows, not with its square.

The kernel of all rows is replaced by ``K_nm K_mm^-1 K_mn`` of m inducing rows, and what that lacks of each row's own
variance is noise of the row (the fully independent training conditional of Snelson and Ghahramani 2006), so that rows
that the inducing ones do not describe are trusted less, as under the exact kernel.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.schema import FloatArray

# Directions of the inducing rows with less variance than this share of the largest are rounding.
_LEAST = 1e-9
_BLOCK = 512


def inverse_root(K: FloatArray) -> FloatArray:
    """Return float64 [m, r] R with R R' the pseudo-inverse of a kernel [m, m] of inducing rows.

    The product of a row's kernel with R are its features: their inner products are the approximate kernel.
    """
    values, vectors = np.linalg.eigh(0.5 * (K + K.T))
    kept = values > _LEAST * max(float(values[-1]), 1e-300)
    out: FloatArray = vectors[:, kept] / np.sqrt(values[kept])
    return out


def unexplained(diagonal: FloatArray, features: FloatArray) -> FloatArray:
    """Return float64 [n], what features [n, r] lack of the kernel of each row with itself [n], at least zero."""
    return np.asarray(np.maximum(diagonal - np.einsum("nr,nr->n", features, features), 0.0))


def inducing_coefficients(
    K: FloatArray, among: FloatArray, diagonal: FloatArray, Y: FloatArray, alpha: float
) -> FloatArray:
    """Return float32 [m, G], the coefficients of the inducing rows in kernel ridge regression on all rows.

    Parameters
    ----------
    K, among
        float64 [n, m] and [m, m], kernel of the train rows, and of the inducing rows, with the inducing rows.
    diagonal
        float64 [n], kernel of each train row with itself.
    Y
        float [n, G], targets.
    alpha
        Ridge penalty above 0.
    """
    from scipy.linalg import cho_factor, cho_solve

    root = inverse_root(among)
    features = K @ root
    weight = 1.0 / (alpha + unexplained(diagonal, features))
    weighted = features * weight[:, None]
    inner = cho_factor(features.T @ weighted + np.eye(features.shape[1]), check_finite=False)
    out = np.empty((len(root), Y.shape[1]), dtype=np.float32)
    for genes in row_blocks(Y.shape[1], _BLOCK):
        along = weighted.T @ Y[:, genes].astype(np.float64)
        out[:, genes] = root @ cho_solve(inner, along, check_finite=False)
    return out
