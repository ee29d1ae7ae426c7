"""Mode-collapse metrics: how much predictions differ between perturbations, relative to observations.

They are this project's, added to panel `perturbench`; PerturBench does not have them.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.ties import ROUNDING
from perturbfm_core.schema import FloatArray

# Below these, a spread (squared, per entry) or a diversity is rounding noise.
_NO_SPREAD, _NO_DIVERSITY = 1e-20, 1e-12


def variance_ratio(P: FloatArray, R: FloatArray) -> float:
    """Return the variance between predicted rows [C, G], summed over genes, over that between observed rows.

    NaN with fewer than two rows or where the observed ones are equal.
    """
    observed = float(np.square(R - R.mean(axis=0)).sum())
    if len(R) < 2 or observed <= max(_NO_SPREAD * R.size, ROUNDING**2 * float(np.square(R).sum())):
        return float("nan")
    return float(np.square(P - P.mean(axis=0)).sum()) / observed


def diversity_ratio(P: FloatArray, R: FloatArray) -> float:
    """Return 1 - mean cosine over pairs of predicted rows [C, G], divided by the same of observed rows.

    Unlike the variance ratio it ignores the size of predictions. A zero row has cosine 1 with every other row. NaN
    with fewer than two rows or where the observed ones all point the same way.
    """
    observed = _diversity(R)
    return _diversity(P) / observed if len(R) > 1 and observed > _NO_DIVERSITY else float("nan")


def _diversity(A: FloatArray) -> float:
    norm = np.linalg.norm(A, axis=1, keepdims=True)
    unit = np.divide(A, norm, out=np.zeros_like(A), where=norm > 0)
    n, nonzero = len(A), int((norm > 0).sum())
    if n < 2:
        return 0.0
    # |sum of unit rows|^2 is the sum of cosines over all ordered pairs, each row with itself included.
    total = float(np.square(unit.sum(axis=0)).sum()) - nonzero
    pairs = nonzero * (nonzero - 1)
    return max(pairs - total, 0.0) / (n * (n - 1))


def spearman(P: FloatArray, R: FloatArray) -> FloatArray:
    """Return [C], the rank correlation of each pair of rows; NaN where a row is constant."""
    return rowwise.spearman(P, R)
