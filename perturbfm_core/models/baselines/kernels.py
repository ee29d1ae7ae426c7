"""Radial kernels, kernel ridge coefficients, and single effects on a few principal axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbfm_core.data.matrix import row_blocks
from perturbfm_core.models.baselines.effects import (
    CONTEXT_LEVELS,
    EffectTable,
    components,
    is_single,
    sum_parts,
)
from perturbfm_core.models.nystrom import inducing_coefficients
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.models.scale import USUAL, Scale
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import TrainView

if TYPE_CHECKING:
    import pandas as pd


_ZERO = 1e-10


def squared_distances(A: FloatArray, B: FloatArray) -> FloatArray:
    """Return float64 [a, b], squared Euclidean distances between the rows of A [a, F] and B [b, F]."""
    from sklearn.metrics.pairwise import euclidean_distances

    if not (len(A) and len(B) and A.shape[1]):
        return np.zeros((len(A), len(B)))
    return np.asarray(
        euclidean_distances(A.astype(np.float64), B.astype(np.float64), squared=True), dtype=np.float64
    )


def median_distance(A: FloatArray, scale: Scale = USUAL) -> float:
    """Return the median of the non-zero squared distances among rows, 1 if all rows are equal.

    Of more rows than `scale` treats exactly, it is that among some.
    """
    if scale.approximates(len(A)):
        A = A[scale.inducing_rows(len(A))]
    d2 = squared_distances(A, A)
    # Through rounding, equal rows have a distance of about 1e-16 of the largest one.
    apart = d2[d2 > _ZERO * max(float(d2.max(initial=0.0)), 1e-300)]
    return float(np.median(apart)) if apart.size else 1.0


def rbf(A: FloatArray, B: FloatArray, scale: float) -> FloatArray:
    """Return float64 [a, b], the kernel exp(-d^2 / scale) with d the Euclidean distance between rows.

    Parameters
    ----------
    A, B
        float [a, F] and [b, F].
    scale
        Squared length scale, such as `median_distance`.
    """
    out: FloatArray = np.exp(-squared_distances(A, B) / scale)
    return out


def dual_coefficients(K: FloatArray, Y: FloatArray, alpha: float) -> FloatArray:
    """Return float32 [n, G], (K + alpha I)^-1 Y, the dual coefficients of kernel ridge regression.

    Parameters
    ----------
    K
        float [n, n], kernel among train conditions.
    Y
        float [n, G], targets, deltas in log1p units.
    alpha
        Ridge penalty > 0.
    """
    from sklearn.kernel_ridge import KernelRidge

    fitted = KernelRidge(alpha=alpha, kernel="precomputed").fit(K, Y.astype(np.float64))
    return np.asarray(fitted.dual_coef_, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class KernelSystem:
    """Kernel ridge regression to be solved at any penalty: exactly, or by inducing rows.

    Attributes
    ----------
    K
        float64 [n, n], kernel among train rows; [n, m] where m inducing rows stand for all.
    Y
        float [n, G], targets.
    rows
        int64 [m], positions of the inducing rows, None if the solution is exact.
    diagonal
        float64 [n], kernel of each row with itself, None if the solution is exact.
    """

    K: FloatArray
    Y: FloatArray
    rows: IntArray | None = None
    diagonal: FloatArray | None = None

    def solve(self, alpha: float) -> FloatArray:
        """Return float32 [n or m, G], the coefficients of the columns of the kernel at one penalty above 0."""
        if self.rows is None or self.diagonal is None:
            return dual_coefficients(self.K, self.Y, alpha)
        return inducing_coefficients(self.K, self.K[self.rows], self.diagonal, self.Y, alpha)


def inducing(scale: Scale, n: int) -> IntArray | None:
    """Return the positions of the inducing rows among `n`, None if these few are treated exactly."""
    return scale.inducing_rows(n) if scale.approximates(n) else None


def principal_axes(X: FloatArray, k: int, scale: Scale = USUAL) -> FloatArray:
    """Return float64 [k', G], the first principal axes of the rows; at most n - 1, none without rows.

    Parameters
    ----------
    X
        float [n, G], deltas in log1p units.
    k
        Number of axes.
    scale
        Sizes beyond which the axes are approximate.
    """
    if not len(X):
        return np.zeros((0, X.shape[1]))
    k = max(1, min(k, len(X) - 1, X.shape[1]))
    return principal_components(X, k, scale.exact).axes


class SingleScores:
    """Scores of train singles on a few principal axes of deltas, not centred: no effect is the origin.

    A part is looked up as in the additive baseline, first in the condition's own context, then over all
    contexts for the same modality. A part that was not measured as a single is at the origin.
    """

    def __init__(self) -> None:
        self.table = EffectTable(CONTEXT_LEVELS)

    def fit(self, view: TrainView, axes: FloatArray) -> SingleScores:
        """Project the singles of a view on `axes` [k, G]."""
        single = is_single(view.conditions)
        effects = view.delta[single]
        # In blocks of the rows, of which a large screen's do not fit in memory twice.
        blocks = [effects[rows].astype(np.float64) @ axes.T for rows in row_blocks(len(effects))]
        self.table.fit(
            view.conditions[single], np.concatenate(blocks) if blocks else np.zeros((0, len(axes)))
        )
        return self

    def parts(self, conditions: pd.DataFrame) -> tuple[FloatArray, IntArray]:
        """Return (float32 [P, k] score of every part, int64 [P] the condition it belongs to)."""
        parts, owner = components(conditions)
        return self.table.look_up(parts)[0], owner

    def sums(self, conditions: pd.DataFrame) -> FloatArray:
        """Return float64 [C, k], the sum of the scores of the parts of each condition."""
        scores, owner = self.parts(conditions)
        return sum_parts(scores, owner, len(conditions))

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""
        return self.table.arrays("scores")

    def meta(self) -> dict[str, Any]:
        """Return the fitted names."""
        return self.table.meta("scores")

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned."""
        self.table.restore("scores", arrays, meta)
