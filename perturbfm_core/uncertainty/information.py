"""Selection of conditions to measure next: greedy information gain, and maximal marginal relevance.

Under a Gaussian process, observing a set S of conditions with noise yields ``1/2 log det(I + K_SS / noise)``
nats of information about it, with K the posterior covariance given train. This set function is monotone and
submodular, so that greedy selection reaches at least 1 - 1/e of the best set of its size (Nemhauser et al.
1978; Krause et al. 2008), and a candidate that is similar to a chosen one has little information left to add.
Where only a variance is known, maximal marginal relevance (Carbonell and Goldstein 1998) weighs it against
the similarity to what is already chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perturbfm_core.schema import FloatArray, IntArray


def information(K: FloatArray, noise: float) -> float:
    """Return ``1/2 log det(I + K / noise)`` in nats, the information from observing covariance K [k, k]."""
    return float(0.5 * np.linalg.slogdet(np.eye(len(K)) + K / noise)[1])


def greedy_information(
    variance: FloatArray,
    column: Callable[[int], FloatArray],
    noise: FloatArray,
    weights: FloatArray,
    k: int,
) -> tuple[IntArray, FloatArray]:
    """Choose candidates one by one, each with the largest expected information gain given those before it.

    Only the covariance columns of chosen candidates are computed (an incomplete Cholesky factor), so that the
    q x q covariance is never formed.

    Parameters
    ----------
    variance
        float [L, q], posterior variance of each candidate at each of L noise levels.
    column
        ``column(i)`` is float [L, q], the posterior covariance of all candidates with candidate i.
    noise
        float [L], noise variance of one observation.
    weights
        float [L], weight of each level (the share of genes that have it).
    k
        How many to choose; at most q are chosen.

    Returns
    -------
    chosen
        int64 [k], positions in the order of choice; ties go to the first.
    gain
        float64 [k], information that each adds to those before it, in nats.
    """
    left = np.maximum(np.asarray(variance, dtype=np.float64), 0.0)
    factors: list[FloatArray] = []
    chosen: list[int] = []
    gains: list[float] = []
    for _ in range(min(k, left.shape[1])):
        # Information of one more observation: 1/2 log(1 + variance / noise), averaged over the levels.
        gain = 0.5 * weights @ np.log1p(left / noise[:, None])
        gain[chosen] = -np.inf
        s = int(np.argmax(gain))
        # Condition on the earlier choices (subtract their Cholesky factors), then append the factor of s.
        covariance = np.asarray(column(s), dtype=np.float64)
        for factor in factors:
            covariance = covariance - factor * factor[:, [s]]
        factor = covariance / np.sqrt(left[:, [s]] + noise[:, None])
        factors.append(factor)
        left = np.maximum(left - factor**2, 0.0)
        chosen.append(s)
        gains.append(float(gain[s]))
    return np.asarray(chosen, dtype=np.int64), np.asarray(gains)


def diverse(relevance: FloatArray, deltas: FloatArray, k: int, diversity: float) -> IntArray:
    """Choose candidates of high relevance whose predicted deltas differ: maximal marginal relevance.

    Each step takes the candidate with the highest ``(1 - diversity) * relevance - diversity * cosine``, where
    the cosine is the largest to any chosen candidate.

    Parameters
    ----------
    relevance
        float [q], not negative; scaled to a maximum of 1.
    deltas
        float [q, G], predicted deltas.
    k
        How many to choose; at most q are chosen.
    diversity
        From 0 (relevance alone) to 1 (difference alone).

    Returns
    -------
    int64 [k], positions in the order of choice; ties go to the first.
    """
    value = np.asarray(relevance, dtype=np.float64)
    value = value / max(float(value.max(initial=0.0)), 1e-300)
    unit = np.asarray(deltas, dtype=np.float64)
    length = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.divide(unit, length, out=np.zeros_like(unit), where=length > 0)
    nearest = np.full(len(value), -np.inf)
    chosen: list[int] = []
    for _ in range(min(k, len(value))):
        # The first candidate is chosen by relevance alone.
        score = value if not chosen else (1.0 - diversity) * value - diversity * nearest
        score = np.where(np.isin(np.arange(len(value)), chosen), -np.inf, score)
        s = int(np.argmax(score))
        chosen.append(s)
        nearest = np.maximum(nearest, unit @ unit[s])
    return np.asarray(chosen, dtype=np.int64)
