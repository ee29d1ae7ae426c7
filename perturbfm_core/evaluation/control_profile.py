"""Counts of the control cells of a context: shares, dispersion, and the composition that a prediction makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from perturbfm_core.schema import FloatArray


@dataclass(frozen=True, eq=False)
class ControlProfile:
    """What generators know of the control cells of a context.

    Attributes
    ----------
    counts
        Their counts, CSR [n, G].
    log_mean
        float64 [G], mean of their log1p expression.
    target_sum
        Depth to which that expression is scaled.
    """

    counts: Any
    log_mean: FloatArray
    target_sum: float

    @cached_property
    def depth(self) -> FloatArray:
        """Return float64 [n], counts of each cell."""
        return np.asarray(self.counts.sum(axis=1), dtype=np.float64).reshape(-1)

    @cached_property
    def share(self) -> FloatArray:
        """Return float64 [G], share of each gene in all counts."""
        summed = np.asarray(self.counts.sum(axis=0), dtype=np.float64).reshape(-1)
        return np.asarray(summed / max(float(summed.sum()), 1.0))

    @cached_property
    def dispersion(self) -> FloatArray:
        """Return float64 [G], dispersion of counts by moments: variance = m + dispersion m^2 at a mean of m."""
        depth, share, y = self.depth, self.share, self.counts.astype(np.float64)
        squares = np.asarray(y.multiply(y).sum(axis=0)).reshape(-1)
        with_depth = np.asarray(depth @ y).reshape(-1)
        scale = share**2 * float((depth**2).sum())
        excess = squares - 2.0 * share * with_depth + scale - share * float(depth.sum())
        return np.asarray(
            np.maximum(np.divide(excess, scale, out=np.zeros_like(scale), where=scale > 0), 0.0)
        )

    @cached_property
    def own_weight(self) -> FloatArray:
        """Return float64 [G], weight of a cell's own count in its rate given the count, at the mean depth."""
        spread = self.dispersion * self.share * float(self.depth.mean() if len(self.depth) else 0.0)
        return np.asarray(np.minimum(spread / (1.0 + spread), 0.999))

    def composition(self, delta: FloatArray) -> FloatArray:
        """Return float64 [G], predicted share of each gene, summing to 1; all 0 if nothing is predicted to be there.

        Parameters
        ----------
        delta
            Predicted change of mean log1p expression [G].
        """
        # Beyond a whole cell's depth no gene can be expressed, whatever is predicted.
        predicted = np.expm1(np.clip(self.log_mean + delta, 0.0, np.log1p(self.target_sum)))
        level = np.expm1(self.log_mean)
        fold = np.divide(predicted, level, out=np.ones_like(level), where=level > 0)
        # A gene that no control cell has gets the share that is predicted for it.
        share = np.where(self.share > 0, self.share * fold, predicted / self.target_sum)
        total = float(share.sum())
        return np.asarray(share / total if total > 0 else np.zeros_like(share))
