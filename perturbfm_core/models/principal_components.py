"""Leading principal components of a matrix, by the cheapest way for its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbfm_core.models.scale import USUAL
from perturbfm_core.schema import FloatArray

# Up to so many rows or columns, whichever are fewer, singular values are computed directly.
_SMALL = 500
# Above so many of both, axes come from random directions, multiplied by the rows so many times, with so many directions to spare.
_LARGE = USUAL.exact
_ROUNDS = 6
_SPARE = 20
_ROUNDING = 1e-5
# Share of the largest variance below which there is none: deltas are in single precision.
_NO_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Leading principal components of rows.

    Attributes
    ----------
    mean
        float64 [G], mean of the rows.
    axes
        float64 [k, G], orthonormal, by falling variance; the entry of largest size of each is positive.
    variance
        float64 [k], variance of the rows along each; NaN of a single row.
    """

    mean: FloatArray
    axes: FloatArray
    variance: FloatArray

    def scores(self, X: FloatArray) -> FloatArray:
        """Return float64 [n, k], rows [n, G] on the axes."""
        out: FloatArray = (X - self.mean) @ self.axes.T
        return out

    def varying(self) -> FloatArray:
        """Return float64 [k', G], the axes along which the rows differ by more than rounding.

        Of n rows at most n - 1: the direction of any further axis is arbitrary, yet rows that are not centred would
        have scores on it.
        """
        most = self.variance.max(initial=0.0)
        found: FloatArray = self.axes[self.variance > _NO_VARIANCE * most]
        return found


def principal_components(X: FloatArray, k: int, exact: int = _LARGE) -> PrincipalComponents:
    """Return the first components of rows.

    Large matrices are decomposed by the products of their shorter side, of which only the leading eigenvectors are
    computed: several times less work than all singular values. Very large ones, of which few components are asked for,
    by subspace iteration from random directions (Halko et al. 2011), always the same ones: the leading components are as
    good as exact, the last ones may be turned among those of nearly equal variance.

    Parameters
    ----------
    X
        float [n, G].
    k
        Number of components, at most the smaller of n and G.
    exact
        The smaller of n and G up to which the decomposition is exact.
    """
    from scipy.linalg import eigh
    from sklearn.decomposition import PCA

    n, genes = X.shape
    m = min(n, genes)
    if m > exact and k <= m // 10:
        return _by_iteration(X, k)
    X = np.asarray(X, dtype=np.float64)
    if m <= _SMALL or k > m // 4:
        # With a single row the explained variance is 0/0.
        with np.errstate(invalid="ignore", divide="ignore"):
            pca = PCA(n_components=k, svd_solver="full").fit(X)
        return PrincipalComponents(pca.mean_, pca.components_, pca.explained_variance_)
    mean = X.mean(axis=0)
    centred = X - mean
    products = centred @ centred.T if n <= genes else centred.T @ centred
    values, vectors = eigh(products, subset_by_index=[m - k, m - 1], overwrite_a=True, check_finite=False)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    axes = vectors.T
    if n <= genes:
        # Divided by their own length: where no variance is left, rounding would decide on it otherwise.
        axes = axes @ centred
        length = np.linalg.norm(axes, axis=1, keepdims=True)
        axes = np.divide(axes, length, out=np.zeros_like(axes), where=length > 0)
    return PrincipalComponents(mean, _signed(axes), values / (n - 1))


def _by_iteration(X: FloatArray, k: int) -> PrincipalComponents:
    """Return the first components by subspace iteration; rows are centred in the products, without a copy."""
    n, genes = X.shape
    mean = X.mean(axis=0, dtype=np.float64)

    def orthonormal(A: FloatArray) -> FloatArray:
        return np.asarray(np.linalg.qr(A.astype(np.float64))[0], dtype=X.dtype)

    def times(Q: FloatArray) -> FloatArray:
        out: FloatArray = X @ Q - (mean @ Q).astype(X.dtype)
        return out

    def transposed(Q: FloatArray) -> FloatArray:
        out: FloatArray = X.T @ Q - np.outer(mean, Q.sum(axis=0, dtype=np.float64)).astype(X.dtype)
        return out

    start = np.random.default_rng(0).standard_normal((genes, k + _SPARE)).astype(X.dtype)
    Q = orthonormal(times(start))
    for _ in range(_ROUNDS):
        Q = orthonormal(times(orthonormal(transposed(Q))))
    _, values, axes = np.linalg.svd(transposed(Q).T.astype(np.float64), full_matrices=False)
    # Where no variance is left, rounding would decide on the axis.
    axes[values <= _ROUNDING * np.sqrt(n) * np.linalg.norm(mean)] = 0.0
    return PrincipalComponents(mean, _signed(axes[:k]), values[:k] ** 2 / (n - 1))


def _signed(axes: FloatArray) -> FloatArray:
    """Return axes of which the entry of largest size is positive."""
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    out: FloatArray = axes * np.where(largest < 0, -1.0, 1.0)[:, None]
    return out
