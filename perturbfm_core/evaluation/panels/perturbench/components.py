"""PerturBench's aggregations by principal components: pca (cells) and pca_average (group means)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.perturbench.population import Matrix, Population, dense
from perturbfm_core.schema import FloatArray

N_COMPONENTS = 100
# Up to this many multiplications the covariance is summed in double precision, above it in single precision.
_DOUBLE_WORK = 2e10
_BLOCK = 4096
# Below this share of the largest variance an axis has none, but for rounding of double or single precision.
_NULL, _SINGLE_NULL = 1e-12, 1e-6
# For more genes than this the covariance matrix is not formed.
_WIDEST = 6000


@dataclass(frozen=True, eq=False)
class Basis:
    """Principal axes of the observed cells.

    Attributes
    ----------
    center
        float64 [G], mean of the observed cells, controls included.
    axes
        float64 [G, k], the first k axes, each with its largest loading positive.
    """

    center: FloatArray
    axes: FloatArray

    def project(self, X: Matrix) -> FloatArray:
        """Return [n, k], the cells' coordinates."""
        axes = self.axes.astype(X.dtype) if X.dtype == np.float32 else self.axes
        return np.asarray(X @ axes - (self.center @ self.axes).astype(axes.dtype))


def fit(population: Population, n_components: int = N_COMPONENTS) -> Basis:
    """Return the principal axes of all cells of a population, controls included.

    Parameters
    ----------
    population
        The observed cells.
    n_components
        Number of axes; fewer are returned where the cells vary along fewer.
    """
    groups, controls = population.moments, population.controls.moments
    n = int(groups.n.sum() + controls.n.sum())
    center: FloatArray = (groups.n @ groups.mean + controls.n @ controls.mean) / n
    k = min(n_components, n - 1, len(center))
    axes = (
        _by_covariance(population, center, n, k)
        if len(center) <= _WIDEST
        else _by_iteration(population, center, k)
    )
    largest = np.abs(axes).argmax(axis=0)
    return Basis(center, axes * np.sign(axes[largest, np.arange(axes.shape[1])]))


def _by_covariance(population: Population, center: FloatArray, n: int, k: int) -> FloatArray:
    """Return [G, k], the first k eigenvectors of the covariance, summed many cells at a time."""
    from scipy.linalg import eigh

    G = len(center)
    dtype = np.float64 if n * G * G <= _DOUBLE_WORK else np.float32
    S = np.zeros((G, G))
    for D in _centred(population, center.astype(dtype)):
        S += D.T @ D
    values, axes = eigh(S, subset_by_index=[G - k, G - 1], overwrite_a=True, check_finite=False)
    return _with_variance(values, axes, _NULL if dtype is np.float64 else _SINGLE_NULL)


def _by_iteration(population: Population, center: FloatArray, k: int) -> FloatArray:
    """Return [G, k], the same axes by Lanczos iteration to machine precision, without the covariance matrix."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    blocks = [population.block(i) for i in range(len(population))]
    blocks += [population.controls.block(v) for v in range(population.controls.n)]
    X = sp.vstack([sp.csr_array(b) for b in blocks], format="csr").astype(np.float64)

    def scatter(v: FloatArray) -> FloatArray:
        w = X @ v - center @ v
        return np.asarray(X.T @ w - center * w.sum())

    G = len(center)
    operator = LinearOperator((G, G), matvec=scatter, dtype=np.float64)
    values, axes = eigsh(operator, k=min(k, G - 1), which="LA", v0=np.ones(G))
    return _with_variance(values, axes, _NULL)


def _with_variance(values: FloatArray, axes: FloatArray, null: float) -> FloatArray:
    """Return the axes, largest variance first, without those that no cell varies along, but for the first: they are arbitrary."""
    varies = values > null * values.max(initial=0.0)
    varies[-1:] = True
    return np.asarray(axes[:, varies][:, ::-1])


def _centred(population: Population, center: FloatArray) -> Iterator[FloatArray]:
    """Yield all cells minus `center`, dense, many groups at a time."""
    blocks = [partial(population.block, k) for k in range(len(population))]
    blocks += [partial(population.controls.block, v) for v in range(population.controls.n)]
    buffer = np.empty((_BLOCK, len(center)), dtype=center.dtype)
    filled = 0
    for block in blocks:
        X = block()
        for start in range(0, X.shape[0], _BLOCK):
            part = X[start : start + _BLOCK]
            if filled + part.shape[0] > _BLOCK:
                yield buffer[:filled] - center
                filled = 0
            dense(part, out=buffer[filled : filled + part.shape[0]])
            filled += part.shape[0]
    yield buffer[:filled] - center


def project(population: Population, basis: Basis) -> list[FloatArray]:
    """Return V2's aggregation `pca`: the coordinates [n, k] of the cells of each group."""
    return [basis.project(population.block(k)) for k in range(len(population))]


def pca_average(mean: FloatArray, basis: Basis) -> FloatArray:
    """Return [K, k], V2's aggregation `pca_average`: the mean coordinates, from the groups' means [K, G]."""
    return np.asarray((mean - basis.center) @ basis.axes)
