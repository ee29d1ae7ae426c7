"""Leading principal components of a matrix, by the cheapest exact way for its size."""

from __future__ import annotations

from dataclasses import dataclass

from perturbfm_core.schema import FloatArray

# Up to so many rows or columns, whichever are fewer, singular values are computed directly.
_SMALL = 500


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


def principal_components(X: FloatArray, k: int) -> PrincipalComponents:
    """Return the first components of rows.

    Large matrices are decomposed by the products of their shorter side, of which only the leading eigenvectors are
    computed: several times less work than all singular values.

    Parameters
    ----------
    X
        float [n, G].
    k
        Number of components, at most the smaller of n and G.
    """
    import numpy as np
    from scipy.linalg import eigh
    from sklearn.decomposition import PCA

    X = np.asarray(X, dtype=np.float64)
    n, genes = X.shape
    m = min(n, genes)
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
    largest = axes[np.arange(k), np.abs(axes).argmax(axis=1)]
    return PrincipalComponents(mean, axes * np.where(largest < 0, -1.0, 1.0)[:, None], values / (n - 1))
