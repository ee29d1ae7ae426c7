"""Relative noise of each train condition, from how far it misses when it is left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perturbfm_core.schema import FloatArray

DEFAULT_LEVEL = 2.0
_ROUNDS = 2
_RANGE = (0.2, 5.0)
_MIN_CONDITIONS = 20


def noise_of(left_out: Callable[[FloatArray], FloatArray], n: int) -> FloatArray:
    """Return float64 [n], the relative noise variance of each condition, with a geometric mean of about 1.

    It is computed from the median over genes of the absolute leave-one-out residual, relative to each gene's
    median. A condition with few cells has large residuals in all genes, whereas an unusual effect shows in
    few genes only.

    Parameters
    ----------
    left_out
        Function from noise [n] to absolute leave-one-out residuals [n, G].
    n
        Number of conditions.
    """
    noise = np.ones(n)
    if n < _MIN_CONDITIONS:
        return noise
    for _ in range(_ROUNDS):
        missed = left_out(noise)
        per_gene = np.median(missed, axis=0)
        moving = per_gene > 0
        if not moving.any():
            return noise
        scale = np.median(missed[:, moving] / per_gene[moving], axis=1) ** 2
        scale = np.maximum(scale, 1e-12)
        # Dividing by the geometric mean leaves the overall level to lambda.
        noise = np.clip(scale / np.exp(np.mean(np.log(scale))), *_RANGE)
    return noise
