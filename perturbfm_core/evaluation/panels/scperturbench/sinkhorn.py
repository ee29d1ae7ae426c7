"""Entropic optimal transport between two groups of cells.

This is the ``wasserstein`` of scPerturBench (through pertpy 0.7 and ott-jax before 0.5): squared Euclidean cost,
uniform weights, epsilon 0.05 times the mean cost, and Sinkhorn iterations in the log domain from zero potentials
until the L1 error of the column marginal, checked every 10 iterations, is at most 1e-3, or for 2,000 iterations.
The value is the dual objective, without a square root and without debiasing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbfm_core.schema import FloatArray

EPSILON = 0.05
THRESHOLD = 1e-3
CHECK_EVERY = 10
MAX_ITERATIONS = 2000
# Column sums outside of this range are left to the log domain, long before they overflow double precision.
_SMALLEST, _LARGEST = 1e-60, 1e60


@dataclass(frozen=True)
class Transport:
    """Result of the Sinkhorn iterations.

    Attributes
    ----------
    cost
        Regularised cost, in squared log1p units.
    iterations
        Number of iterations.
    converged
        Whether the marginal error fell to the threshold.
    """

    cost: float
    iterations: int
    converged: bool


def regularised_cost(C: FloatArray) -> Transport:
    """Return the entropic transport cost of a cost matrix [n, m] between uniform weights.

    The iterates are those of the log domain. Between iterations computed there, the same steps are computed by scaling
    the current plan, which needs no exponentials, as long as the scaling factors stay in a safe range. NaN if the mean
    cost is 0 (all cells are the same).
    """
    C = np.asarray(C, dtype=np.float64)
    epsilon = EPSILON * float(C.mean())
    if epsilon <= 0:
        return Transport(float("nan"), 0, False)
    n, m = C.shape
    f, g, mass, iterations, converged = _solve(C / -epsilon)
    # Dual objective <f, a> + <g, b> + epsilon (1 - mass of the plan), with potentials over epsilon; log n and log m
    # convert from the counting measure of `_solve` to the weights a = 1 / n and b = 1 / m.
    dual = float(f.mean() + g.mean()) + float(np.log(n) + np.log(m))
    return Transport(epsilon * (dual + 1.0 - mass), iterations, converged)


def _solve(M: FloatArray) -> tuple[FloatArray, FloatArray, float, int, bool]:
    """Return both potentials divided by epsilon, total mass, iterations and convergence, for M = -C / epsilon."""
    n, m = M.shape
    f: FloatArray = np.zeros(n)
    iteration = 0
    while True:
        # One iteration in the log domain; the plan of its potentials is the kernel of the iterations that follow.
        g = -np.log(m) - _logsumexp(M + f[:, None] if iteration else M, axis=0)
        f, K = _row_step(M + g)
        KT = np.ascontiguousarray(K.T)
        u, v, row = np.ones(n), np.ones(m), K.sum(axis=1)
        column = K.sum(axis=0)
        while True:
            iteration += 1
            last = iteration == MAX_ITERATIONS
            if last or iteration % CHECK_EVERY == 0:
                converged = bool(np.abs(v * column - 1.0 / m).sum() <= THRESHOLD)
                if converged or last:
                    mass = float(u @ row)
                    return f + np.log(u), g + np.log(v), mass, iteration, converged
            if not (column.min() > _SMALLEST and column.max() < _LARGEST):
                break
            v = 1.0 / (m * column)
            row = K @ v
            u = 1.0 / (n * row)
            # The next iteration divides by these column sums, so that checking the error costs nothing.
            column = KT @ u
        f = f + np.log(u)


def _row_step(A: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the potential of rows and the plan for A = M + g [n, m], which is overwritten.

    The plan exp(A + f) is the exponential that the potential takes, divided by its row sums: each row then has 1 / n.
    """
    n, top = len(A), A.max(axis=1)
    A -= top[:, None]
    np.exp(A, out=A)
    total = A.sum(axis=1)
    A /= (n * total)[:, None]
    return -np.log(n) - np.log(total) - top, A


def _logsumexp(A: FloatArray, axis: int) -> FloatArray:
    top = A.max(axis=axis, keepdims=True)
    A = A - top
    np.exp(A, out=A)
    return np.asarray(np.log(A.sum(axis=axis)) + top.squeeze(axis))
