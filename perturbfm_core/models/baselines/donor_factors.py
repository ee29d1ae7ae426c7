"""Factors by which effects of donors are scaled: least squares at zero or above, kept if they help left-out conditions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core.schema import FloatArray

# With fewer conditions than this nothing is left out, and the factors are taken as they are.
_FEWEST = 3


def donor_factors(effects: Sequence[FloatArray], target: FloatArray) -> FloatArray:
    """Return float64 [donors], the factors of the donors' effects; all zero where they do not help.

    Parameters
    ----------
    effects
        Per donor, float [n, G], its effects in n conditions.
    target
        float [n, G], what their scaled sum is to give.
    """
    k, n = len(effects), len(target)
    if not k or not n:
        return np.zeros(k)
    E, R = [e.astype(np.float64) for e in effects], target.astype(np.float64)
    # Products per condition are all that least squares needs, with every condition and without each.
    gram = np.stack([[np.einsum("ng,ng->n", a, b) for b in E] for a in E], axis=-1).transpose(1, 2, 0)
    right = np.stack([np.einsum("ng,ng->n", a, R) for a in E], axis=1)
    whole, total = gram.sum(axis=0), right.sum(axis=0)
    found = _least_squares(whole, total)
    if n < _FEWEST or not found.any():
        return found
    left = [_least_squares(whole - g, total - r) for g, r in zip(gram, right, strict=True)]
    gains = np.asarray([2 * f @ r - f @ g @ f for f, g, r in zip(left, gram, right, strict=True)])
    helps = gains.mean() > gains.std(ddof=1) / np.sqrt(n)
    return found if helps else np.zeros(k)


def _least_squares(gram: FloatArray, right: FloatArray) -> FloatArray:
    """Return float64 [k], the solution of gram x = right of the least error with x >= 0."""
    from scipy.optimize import nnls

    out = np.zeros(len(gram))
    used = np.diag(gram) > 0
    if not used.any():
        return out
    scale = np.sqrt(np.diag(gram)[used])
    values, vectors = np.linalg.eigh(gram[np.ix_(used, used)] / np.outer(scale, scale))
    kept = values > 1e-10
    # gram = F' F, so that the normal equations are a least-squares problem of the size of the donors.
    root = np.sqrt(values[kept])
    factor = root[:, None] * vectors[:, kept].T
    out[used] = nnls(factor, (vectors[:, kept].T @ (right[used] / scale)) / root)[0] / scale
    return out
