"""Error and correlation over the genes most expressed in controls."""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.ties import by_name
from perturbfm_core.schema import FloatArray, IntArray, StrArray

N_GENES = 1000


def expressed(control: FloatArray, k: int = N_GENES, names: StrArray | None = None) -> IntArray:
    """Return positions of the `k` genes of highest control mean, highest first.

    Parameters
    ----------
    control
        Control means [G].
    k
        Number of genes.
    names
        Gene names [G]: equally expressed genes are taken by name, without names in their order.
    """
    return by_name(control[None, :], names)[0, :k]


def l2(truth: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return [C], the Euclidean distance of rows: summed over genes, not averaged, so it grows with their number."""
    return np.asarray(np.sqrt(np.square(predicted - truth).sum(axis=1)))


def pearson(truth: FloatArray, predicted: FloatArray) -> FloatArray:
    """Return [C], the correlation that the paper's tables call r2 (it is not squared)."""
    return rowwise.pearson(predicted, truth)
