"""Set process given its train conditions, exactly: one eigendecomposition for all noise levels."""

from __future__ import annotations

import numpy as np

from perturbfm_core.models.perturbfm.core.condition_noise import DEFAULT_LEVEL, noise_of
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.similarity import take
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query

_BLOCK = 512


class ExactTrain:
    """The process given train, by the dense kernel of the train conditions.

    Parameters
    ----------
    space, kernel
        The components of the kernel, and their weights.
    """

    def __init__(self, space: SimilarityKernel, kernel: Kernel) -> None:
        self.space, self.kernel = space, kernel
        self.noise: FloatArray = np.zeros(0)
        self.scale: FloatArray = np.zeros(0)
        self._eigen: tuple[FloatArray, FloatArray] = (np.zeros(0), np.zeros((0, 0)))
        self._dual: FloatArray = np.zeros((0, 0), dtype=np.float32)

    def fit(self, residual: FloatArray, lambdas: FloatArray) -> ExactTrain:
        """Condition on deltas less their mean [n, G], with a noise level for each gene [G]."""
        K = self.space.blocks()(self.kernel)
        solver = ExactSolver(K, residual, condition_noise(K, residual))
        self._dual = solver.dual(lambdas)
        # Rounded as they are saved, so that a fitted and a loaded process predict the same.
        self.noise = solver.noise
        self._eigen = (solver.values, solver.vectors.astype(np.float32).astype(np.float64))
        self.scale = solver.signal(lambdas)
        return self

    def predict(self, query: Query, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return float32 [q, G], the mean beyond the mean function, and float64 [levels, q], variance explained."""
        # C [q, n] is the kernel between query and train; dual [n, G] is (K + lambda_g D)^-1 (delta - mean).
        C = self.space.blocks(query)(self.kernel)
        squares = ((C / np.sqrt(self.noise)) @ self._eigen[1]) ** 2
        explained = np.stack([squares @ (1.0 / (self._eigen[0] + lam)) for lam in levels])
        return C.astype(np.float32) @ self._dual, explained

    def projected(self, query: Query) -> FloatArray:
        """Return rows c' D^-1/2 Q [q, n] in the eigenbasis.

        With D^-1/2 K D^-1/2 = Q diag(e) Q', what train explains of a covariance, c' (K + lambda D)^-1 c, is an inner
        product of such rows weighted by 1 / (e + lambda), for all noise levels.
        """
        blocks = [
            (self.space.blocks(part)(self.kernel) / np.sqrt(self.noise)) @ self._eigen[1]
            for part in (take(query, slice(i, i + _BLOCK)) for i in range(0, len(query), _BLOCK))
        ]
        return np.concatenate(blocks)

    def explained(self, rows: FloatArray, levels: FloatArray) -> FloatArray:
        """Return float64 [levels, q], the variance of projected conditions that train explains."""
        return np.stack([(rows**2) @ (1.0 / (self._eigen[0] + lam)) for lam in levels])

    def between(self, rows: FloatArray, i: int, levels: FloatArray) -> FloatArray:
        """Return float64 [levels, q], the covariance of projected conditions with one of them that train explains.

        Parameters
        ----------
        rows
            float64 [q, n], projected conditions.
        i
            Position of the one among them.
        levels
            float64 [levels], noise levels.
        """
        return np.stack([rows @ (rows[i] / (self._eigen[0] + lam)) for lam in levels])

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""
        return {
            "dual": self._dual,
            "noise": self.noise,
            "eigenvalues": self._eigen[0],
            "eigenvectors": self._eigen[1].astype(np.float32),
            "scale": self.scale,
        }

    def restore(self, arrays: dict[str, FloatArray]) -> None:
        """Restore the arrays that `arrays` returned."""
        self._dual = arrays["dual"]
        self.noise, self.scale = arrays["noise"], arrays["scale"]
        self._eigen = (arrays["eigenvalues"], arrays["eigenvectors"].astype(np.float64))


class ExactSolver:
    """Kernel regression of many genes at many noise levels from one eigendecomposition.

    Parameters
    ----------
    K
        float64 [n, n], kernel of the train conditions.
    Y
        float32 [n, G], targets.
    noise
        float64 [n], relative noise variance of each condition.
    """

    def __init__(self, K: FloatArray, Y: FloatArray, noise: FloatArray) -> None:
        self.noise = noise
        root = 1.0 / np.sqrt(self.noise)
        # With D = diag(noise), (K + lambda D)^-1 = D^-1/2 (D^-1/2 K D^-1/2 + lambda I)^-1 D^-1/2, so that the
        # matrix that is decomposed does not depend on lambda.
        values, vectors = np.linalg.eigh(root[:, None] * K * root[None])
        # Negative eigenvalues come from rounding.
        self.values: FloatArray = np.maximum(values, 0.0)
        self.vectors: FloatArray = vectors
        self._root = root
        self._rotated = (vectors.T @ (root[:, None] * Y)).astype(np.float32)

    def predict(self, C: FloatArray, lam: float) -> FloatArray:
        """Return float32 [q, G], the prediction for cross kernels C [q, n] at one noise level."""
        left = ((C * self._root) @ self.vectors) / (self.values + lam)
        out: FloatArray = left.astype(np.float32) @ self._rotated
        return out

    def dual(self, lambdas: FloatArray) -> FloatArray:
        """Return float32 [n, G], weights of train conditions for genes with the given noise levels [G]."""
        out = np.zeros(self._rotated.shape, dtype=np.float32)
        for lam in np.unique(lambdas):
            at = lambdas == lam
            scaled = self._rotated[:, at] / (self.values + lam).astype(np.float32)[:, None]
            out[:, at] = (self._root[:, None] * self.vectors).astype(np.float32) @ scaled
        return out

    def signal(self, lambdas: FloatArray) -> FloatArray:
        """Return float64 [G], the scale of each gene's process, y' (K + lambda D)^-1 y / n.

        It is the maximum-likelihood estimate of a common factor on K + lambda D.
        """
        out = np.zeros(len(lambdas))
        for lam in np.unique(lambdas):
            at = lambdas == lam
            out[at] = (self._rotated[:, at].astype(np.float64) ** 2 / (self.values + lam)[:, None]).mean(
                axis=0
            )
        return np.asarray(np.maximum(out, 1e-8))


def condition_noise(K: FloatArray, Y: FloatArray) -> FloatArray:
    """Return float64 [n], the relative noise variance of each condition (see `noise_of`)."""

    def left_out(noise: FloatArray) -> FloatArray:
        inverse = np.linalg.inv(K + DEFAULT_LEVEL * np.diag(noise))
        # Leave-one-out residual of kernel regression in closed form: [M^-1 Y]_i / [M^-1]_ii with M = K +
        # lambda D.
        return np.abs((inverse @ Y) / np.diag(inverse)[:, None])

    return noise_of(left_out, len(Y))
