"""Set process given its train conditions, by inducing conditions: for more conditions than a dense kernel can hold.

The kernel is split in two. What conditions have in common through genes that few of them perturb is sparse and kept as it
is (`SharedGenes`); the rest, B, is smooth and replaced by ``B_nm B_mm^-1 B_mn`` of m inducing conditions, the variance that
this lacks being noise of each condition:

    K + lambda D  ~  N + F F',   N = sparse + diag(lacking) + lambda D,   F = B_nm B_mm^-1/2

N is block diagonal with small blocks, so that the inverse of the sum needs m by m matrices only, for every noise level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.models.nystrom import inverse_root, unexplained
from perturbfm_core.models.perturbfm.core.condition_noise import DEFAULT_LEVEL, noise_of
from perturbfm_core.models.perturbfm.core.described import Described
from perturbfm_core.models.perturbfm.core.kernel import SimilarityKernel
from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel
from perturbfm_core.models.perturbfm.core.shared_genes import SharedGenes
from perturbfm_core.models.scale import some_rows
from perturbfm_core.models.similarity import take
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query

_ROWS = 1024
_GENES = 512


@dataclass(frozen=True, eq=False)
class Projected:
    """Conditions as train sees them: features [q, r], and CSR [q, n], their kernel with train through rare genes."""

    features: FloatArray
    shared: Any


class InducingTrain:
    """The process given train, by inducing conditions.

    Parameters
    ----------
    space, kernel
        The components of the kernel, and their weights.
    """

    def __init__(self, space: SimilarityKernel, kernel: Kernel) -> None:
        self.space, self.kernel = space, kernel
        self.noise: FloatArray = np.zeros(0)
        self.scale: FloatArray = np.zeros(0)
        self._rows: IntArray = np.zeros(0, dtype=np.int64)
        self._root: FloatArray = np.zeros((0, 0))
        self._features: FloatArray = np.zeros((0, 0))
        self._lacking: FloatArray = np.zeros(0)
        self._weights: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._dual: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._genes: SharedGenes | None = None
        self._inducing: Described | None = None
        self._blocks: list[tuple[IntArray, FloatArray]] = []
        self._levels: dict[float, _Level] = {}

    # ---- fitting ---------------------------------------------------------------------------------------

    def fit(self, residual: FloatArray, lambdas: FloatArray) -> InducingTrain:
        """Condition on deltas less their mean [n, G], with a noise level for each gene [G]."""
        n = len(residual)
        train, scale = self.space.train, self.space.scale
        self._rows = scale.inducing_rows(n)
        self._prepare()
        among = self._smooth(self.space.train_rows(self._rows))
        self._root = inverse_root(among)
        # Rounded as they are saved, so that a fitted and a loaded process predict the same.
        self._features = self._features_of(train).astype(np.float32).astype(np.float64)
        own = self.space.diagonal(train, self.kernel) - self._shared_diagonal()
        self._lacking = unexplained(own, self._features)
        some = residual[:, some_rows(residual.shape[1], scale.genes)].astype(np.float64)
        self.noise = noise_of(lambda noise: self._left_out(some, noise), n)
        self._solve(residual, lambdas)
        return self

    def _prepare(self) -> None:
        self._inducing = self.space.train_rows(self._rows)
        self._genes = SharedGenes(self.space, self.kernel, self.space.train)
        self._blocks = self._genes.blocks(self._genes.cross(self.space.train))
        self._levels = {}

    def _shared_diagonal(self) -> FloatArray:
        out = np.zeros(len(self.space.conditions))
        for at, kernels in self._blocks:
            out[at] = np.diagonal(kernels, axis1=1, axis2=2)
        return out

    def _left_out(self, Y: FloatArray, noise: FloatArray) -> FloatArray:
        """Return float64 [n, G], absolute leave-one-out residuals: [M^-1 Y]_i / [M^-1]_ii with M the sum above."""
        from scipy.linalg import solve_triangular

        level = _Level(self._features, self._inverse(DEFAULT_LEVEL, noise))
        half = solve_triangular(level.inner[0], level.weighted.T, trans="T", check_finite=False)
        diagonal = level.inverse.diagonal() - np.einsum("rn,rn->n", half, half)
        dual, _ = level.solve(Y)
        return np.asarray(np.abs(dual / diagonal[:, None]))

    def _solve(self, residual: FloatArray, lambdas: FloatArray) -> None:
        shape = residual.shape
        self._dual = np.zeros(shape, dtype=np.float32)
        self._weights = np.zeros((self._features.shape[1], shape[1]), dtype=np.float32)
        self.scale = np.zeros(shape[1])
        for lam in np.unique(lambdas):
            level = _Level(self._features, self._inverse(float(lam), self.noise))
            genes = np.flatnonzero(lambdas == lam)
            for part in row_blocks(len(genes), _GENES):
                at = genes[part]
                Y = residual[:, at].astype(np.float64)
                dual, weights = level.solve(Y)
                self._dual[:, at], self._weights[:, at] = dual, weights
                # The maximum-likelihood estimate of a common factor on the covariance: y' M^-1 y / n.
                self.scale[at] = np.maximum(np.einsum("ng,ng->g", Y, dual) / shape[0], 1e-8)

    def _inverse(self, lam: float, noise: FloatArray) -> Any:
        """Return CSR float64 [n, n], the inverse of N at one noise level."""
        n = len(noise)
        own = self._lacking + lam * noise
        rows, columns, values = [], [], []
        for at, kernels in self._blocks:
            s = at.shape[1]
            inverse = np.linalg.inv(kernels + own[at][:, :, None] * np.eye(s))
            rows.append(np.repeat(at, s, axis=1).ravel())
            columns.append(np.tile(at, (1, s)).ravel())
            values.append(inverse.ravel())
        place = (np.concatenate(rows), np.concatenate(columns))
        return sp.csr_array((np.concatenate(values), place), shape=(n, n))

    def _level(self, lam: float) -> _Level:
        if lam not in self._levels:
            self._levels[lam] = _Level(self._features, self._inverse(lam, self.noise))
        return self._levels[lam]

    # ---- predicting ------------------------------------------------------------------------------------

    def predict(self, query: Query, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return float32 [q, G], the mean beyond the mean function, and float64 [levels, q], variance explained."""
        means, explained = [], []
        for rows in row_blocks(len(query), _ROWS):
            seen = self.projected(take(query, rows))
            mean = seen.features.astype(np.float32) @ self._weights
            means.append(mean + seen.shared.astype(np.float32) @ self._dual)
            explained.append(self.explained(seen, levels))
        return np.concatenate(means), np.concatenate(explained, axis=1)

    def projected(self, query: Query) -> Projected:
        """Return conditions as train sees them."""
        if self._genes is None:
            self._prepare()
        parts = [self.space.described(take(query, rows)) for rows in row_blocks(len(query), _ROWS)]
        assert self._genes is not None  # noqa: S101 - prepared above
        return Projected(
            np.concatenate([self._smooth(x) @ self._root for x in parts]),
            sp.csr_array(sp.vstack([self._genes.cross(x) for x in parts])),
        )

    def explained(self, seen: Projected, levels: FloatArray) -> FloatArray:
        """Return float64 [levels, q], the variance of conditions that train explains."""
        return np.stack([self._level(float(lam)).explained(self._features, seen, None) for lam in levels])

    def between(self, seen: Projected, i: int, levels: FloatArray) -> FloatArray:
        """Return float64 [levels, q], the covariance of conditions with one of them that train explains.

        Parameters
        ----------
        seen
            q projected conditions.
        i
            Position of the one among them.
        levels
            float64 [levels], noise levels.
        """
        return np.stack([self._level(float(lam)).explained(self._features, seen, i) for lam in levels])

    def _smooth(self, a: Described) -> FloatArray:
        """Return float64 [q, m], the smooth part of the kernel between conditions and the inducing ones."""
        assert self._genes is not None  # noqa: S101 - prepared before any kernel is computed
        return self.space.blocks(a, self._inducing, self._genes.common)(self.kernel)

    def _features_of(self, train: Described) -> FloatArray:
        n = train.parts.n
        return np.concatenate(
            [
                self._smooth(self.space.train_rows(np.arange(n)[rows])) @ self._root
                for rows in row_blocks(n, _ROWS)
            ]
        )

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""
        return {
            "dual": self._dual,
            "noise": self.noise,
            "scale": self.scale,
            "inducing": self._rows.astype(np.float64),
            "root": self._root,
            "features": self._features.astype(np.float32),
            "lacking": self._lacking,
            "weights": self._weights,
        }

    def restore(self, arrays: dict[str, FloatArray]) -> None:
        """Restore the arrays that `arrays` returned."""
        self._dual, self.noise, self.scale = arrays["dual"], arrays["noise"], arrays["scale"]
        self._rows, self._root = arrays["inducing"].astype(np.int64), arrays["root"]
        self._features = arrays["features"].astype(np.float64)
        self._lacking, self._weights = arrays["lacking"], arrays["weights"]
        self._genes, self._levels = None, {}


class _Level:
    """The inverse of N + F F' at one noise level.

    Parameters
    ----------
    F
        float64 [n, r], features of the train conditions.
    inverse
        CSR float64 [n, n], the inverse of N.
    """

    def __init__(self, F: FloatArray, inverse: Any) -> None:
        from scipy.linalg import cho_factor

        self.inverse = inverse
        self.weighted: FloatArray = inverse @ F
        self.gram: FloatArray = F.T @ self.weighted
        self.inner = cho_factor(self.gram + np.eye(F.shape[1]), check_finite=False)

    def solve(self, Y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (float64 [n, G], the sum's inverse times Y; float64 [r, G], F' times that)."""
        from scipy.linalg import cho_solve

        weights = cho_solve(self.inner, self.weighted.T @ Y, check_finite=False)
        return np.asarray(self.inverse @ Y - self.weighted @ weights), weights

    def explained(self, F: FloatArray, seen: Projected, i: int | None) -> FloatArray:
        """Return float64 [q], what train explains of the variances, or of the covariances with condition `i`.

        With c = F f + s the covariance of a condition with train, that is c' (N + F F')^-1 c.
        """
        from scipy.linalg import cho_solve

        sparse = sp.csr_array(seen.shared @ self.inverse)
        # F' N^-1 c of each condition [q, r].
        through_sparse = sparse @ F
        along = seen.features @ self.gram + through_sparse
        if i is None:
            left = np.einsum("qr,qr->q", seen.features, along + through_sparse)
            left += np.asarray((sparse * seen.shared).sum(axis=1)).ravel()
            found = cho_solve(self.inner, along.T, check_finite=False)
            return np.asarray(left - np.einsum("qr,rq->q", along, found))
        own = seen.features[i]
        left = along @ own + seen.features @ (sparse[[i]] @ F).ravel()
        left += np.asarray((sparse @ seen.shared[[i]].T).toarray()).ravel()
        return np.asarray(left - along @ cho_solve(self.inner, along[i], check_finite=False))
