"""Each perturbed gene's own level of error, beyond what the traits of a condition say.

    log(excess_i / var_i) = offset + sum_p in i level_p + noise

over out-of-fold rows i with parts p (a gene and its modality). Levels are shrunk to zero by ridge regression, that
is, they are random effects; the strength of shrinkage is the one of least error on held-out folds, and no levels at
all is among the choices. A part that no row has (an unseen gene) has level zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.sparse.linalg import lsqr

from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Prior rows' worth of evidence that a part is like all others.
SHRINKAGE = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MIN_ROWS = 20
# Errors may be below sampling noise by chance; their logarithm must not say how far.
_FLOOR = 0.25
_MOST = 2.0


class PartLevels:
    """Random effects of perturbed genes on the logarithm of the variance."""

    def __init__(self) -> None:
        self._labels: list[str] = []
        self._levels: FloatArray = np.zeros(0)
        self._offset = 0.0
        self.shrinkage: float | None = None

    def fit(
        self,
        conditions: pd.DataFrame,
        excess: FloatArray,
        var: FloatArray,
        fold: IntArray,
        usable: BoolArray,
    ) -> FloatArray:
        """Learn the levels and return float64 [m], the log factor of every row from rows of other folds.

        Parameters
        ----------
        conditions
            Condition table of the out-of-fold rows [m].
        excess, var
            float [m], squared error less sampling variance, and predicted variance, each the mean over genes.
        fold
            int64 [m].
        usable
            bool [folds, m]: rows whose condition the fold's predictor was fitted on.
        """
        m = len(excess)
        out: FloatArray = np.zeros(m)
        ratio = excess / np.maximum(var, 1e-12)
        y = np.log(np.maximum(ratio, _FLOOR))
        y = y - y.mean() if m else y
        parts = interventions(conditions)
        labels = sorted(set(parts.labels))
        if m < MIN_ROWS or len(usable) < 2:
            return out
        Z = _incidence(parts.owner, parts.labels, labels, m)
        least = float((y**2).sum())
        for shrinkage in SHRINKAGE:
            crossed: FloatArray = np.zeros(m)
            for j in np.unique(fold):
                mine, others = fold == j, usable[j] & (fold != j)
                crossed[mine] = Z[mine] @ _ridge(Z[others], y[others], shrinkage)
            error = float(((y - crossed) ** 2).sum())
            if error < least:
                least, self.shrinkage, out = error, shrinkage, crossed
        if self.shrinkage is None:
            return out
        self._labels, self._levels = labels, _ridge(Z, y, self.shrinkage)
        out = np.clip(out, -_MOST, _MOST)
        # The factors must leave the mean of the variance as it was right before.
        before, after = max(float(ratio.mean()), _FLOOR), max(float((ratio / np.exp(out)).mean()), _FLOOR)
        self._offset = float(np.log(after / before))
        return out + self._offset

    def read(self, conditions: pd.DataFrame) -> FloatArray:
        """Return float64 [n], the log factor on the variance of each condition."""
        if not self._labels:
            return np.zeros(len(conditions))
        parts = interventions(conditions)
        Z = _incidence(parts.owner, parts.labels, self._labels, len(conditions))
        return np.asarray(np.clip(Z @ self._levels, -_MOST, _MOST) + self._offset)

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        return {f"{prefix}.levels": self._levels}

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.labels": self._labels,
            f"{prefix}.offset": self._offset,
            f"{prefix}.shrinkage": self.shrinkage,
        }

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Take back what `arrays` and `meta` returned."""
        self._levels, self._labels = arrays[f"{prefix}.levels"], list(meta[f"{prefix}.labels"])
        self._offset, self.shrinkage = float(meta[f"{prefix}.offset"]), meta[f"{prefix}.shrinkage"]


def _incidence(owner: IntArray, labels: list[str], known: list[str], n: int) -> sp.csr_array:
    """Return float64 [n, known], how often each known part is in each condition."""
    column = pd.Index(known).get_indexer(labels)
    at = np.flatnonzero(column >= 0)
    return sp.csr_array((np.ones(len(at)), (owner[at], column[at])), shape=(n, len(known)))


def _ridge(Z: sp.csr_array, y: FloatArray, shrinkage: float) -> FloatArray:
    """Return float64 [parts], the least-squares levels with a ridge of `shrinkage`."""
    return np.asarray(lsqr(Z, y, damp=float(np.sqrt(shrinkage)), atol=1e-10, btol=1e-10)[0])
