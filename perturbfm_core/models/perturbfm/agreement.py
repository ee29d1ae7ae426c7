"""Agreement of predicted and measured deltas, by which corrections of the core are let in."""

from __future__ import annotations

import numpy as np

from perturbfm_core.schema import FloatArray


def centred_pearson(A: FloatArray, B: FloatArray, center: FloatArray) -> FloatArray:
    """Return float64 [n], Pearson correlation over genes of rows minus a common centre.

    Parameters
    ----------
    A, B
        float [n, G], predicted and measured deltas.
    center
        float [G], such as the mean delta of train.
    """
    a, b = A.astype(np.float64) - center, B.astype(np.float64) - center
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    out: FloatArray = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1) + 1e-30)
    return out
