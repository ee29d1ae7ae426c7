"""Kernel of conditions by the features of their genes, with the directions in which it is no covariance taken out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core.models.perturbfm.core.described import Described, over_parts
from perturbfm_core.schema import FloatArray

# Negative variance below this share of the largest is rounding of features in single precision.
_ROUNDING = 1e-6


class FeatureKernel:
    """Sum over pairs of genes of the similarity of their features.

    Cosines that are cut off at zero make no covariance: along some directions of the train conditions the variance is
    negative, and what new conditions have along them predicts badly. They are taken out of every kernel with train, as
    inducing conditions take them out.

    Parameters
    ----------
    train
        Train conditions.
    exact
        Whether train conditions are few enough for a decomposition; if not, they are left as they are.
    """

    def __init__(self, train: Described, *, exact: bool) -> None:
        self._train, self._exact = train, exact
        self._projections: dict[tuple[float, ...], FloatArray | None] = {}

    def between(self, a: Described, b: Described, weights: tuple[float, ...]) -> FloatArray:
        """Return float64 [a, b], the kernel of two sets of conditions.

        Parameters
        ----------
        a, b
            Conditions; `b` is the train conditions themselves where they are meant.
        weights
            Weight of each table, with sum 1; empty for all alike.
        """
        K = _kernel(a, b, weights)
        if b is not self._train or not self._exact:
            return K
        if weights not in self._projections:
            self._projections[weights] = _projection(K if a is b else _kernel(b, b, weights))
        projection = self._projections[weights]
        return K if projection is None else K @ projection


def _kernel(a: Described, b: Described, weights: tuple[float, ...]) -> FloatArray:
    return over_parts(a, b, feature_similarity(a, b, weights), signed=True)


def _projection(K: FloatArray) -> FloatArray | None:
    """Return float64 [n, n], the projection onto the directions of positive variance; None if there are no others."""
    values, vectors = np.linalg.eigh(0.5 * (K + K.T))
    if not len(values) or values[0] >= -_ROUNDING * max(float(values[-1]), 1e-300):
        return None
    kept = vectors[:, values > 0]
    return np.asarray(kept @ kept.T)


def feature_similarity(a: Described, b: Described, weights: Sequence[float] = ()) -> FloatArray:
    """Return float64 [parts of a, parts of b]: weighted mean of the tables' squared cosines.

    Negative cosines count as zero, and so does any cosine with a gene that a table lacks.

    Parameters
    ----------
    a, b
        Conditions.
    weights
        Weight of each table, with sum 1 (default: all alike).
    """
    out = np.zeros((len(a.effects), len(b.effects)))
    share = weights or (1.0 / max(len(a.tables), 1),) * len(a.tables)
    for w, (x, p), (y, q) in zip(share, a.tables, b.tables, strict=True):
        if w:
            # Rows have unit length, so inner products are cosines; genes that a table lacks are set to zero.
            out += w * (np.maximum(x @ y.T, 0.0) * np.outer(p, q)) ** 2
    return out
