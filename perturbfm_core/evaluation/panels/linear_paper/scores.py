"""Error and correlation over the genes most expressed in controls."""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.schema import FloatArray, IntArray

N_GENES = 1000


def expressed(control: FloatArray, k: int = N_GENES) -> IntArray:
    """Return positions of the `k` genes of highest control mean [G], highest first; ties go to the earlier gene."""
    return np.argsort(-control, kind="stable")[:k]


def l2(truth: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return [C], the Euclidean distance of rows: summed over genes, not averaged, so it grows with their number."""
    return np.asarray(np.sqrt(np.square(predicted - truth).sum(axis=1)))


def pearson(truth: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return [C], the correlation that the paper's tables call r2 (it is not squared)."""
    return rowwise.pearson(predicted, truth)
