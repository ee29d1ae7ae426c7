"""Weights of feature tables in the kernel, learned on inner folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from perturbfm_core.models.perturbfm.core.kernel_weights import Kernel

# Factors on the weight of one table that are tried, the others left as they are.
_FACTORS = (0.0, 1.0 / 3.0, 3.0)
# A change must lower the error by this share: less is what inner folds differ by when nothing has changed.
_LEAST_GAIN = 1e-3
_SWEEPS = 4


def weigh_tables(
    kernel: Kernel, tables: int, scores: Callable[[Sequence[Kernel]], Sequence[float]]
) -> Kernel:
    """Return the kernel with the weights of its tables that have the least error, found step by step from equal ones.

    Each step tries every table with other weights, one alone among them, and takes the best change.

    Parameters
    ----------
    kernel
        The kernel, with a weight of all features together.
    tables
        Number of tables.
    scores
        Function from kernels to their errors on inner folds.
    """
    equal = (1.0 / tables,) * tables
    tried: dict[tuple[float, ...], float] = {}

    def error_of(weights: Sequence[tuple[float, ...]]) -> list[float]:
        new = [w for w in dict.fromkeys(weights) if w not in tried]
        tried.update(zip(new, scores([replace(kernel, tables=w) for w in new]), strict=True) if new else ())
        return [tried[w] for w in weights]

    best, (least,) = equal, error_of([equal])
    for _ in range(_SWEEPS):
        steps = _steps(best)
        errors = error_of(steps)
        i = min(range(len(steps)), key=errors.__getitem__)
        if errors[i] > (1.0 - _LEAST_GAIN) * least:
            break
        best, least = steps[i], errors[i]
    return kernel if best == equal else replace(kernel, tables=best)


def _steps(weights: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Return the weights in which one table has more, less or nothing, or is alone, with sum 1."""
    out = []
    smallest = min(w for w in weights if w > 0)
    for i, w in enumerate(weights):
        # A table without weight comes back with the least that another has.
        for new in {f * w for f in _FACTORS} if w else {smallest}:
            step = [new if j == i else x for j, x in enumerate(weights)]
            if sum(step) > 0:
                out.append(tuple(round(x / sum(step), 6) for x in step))
        out.append(tuple(float(j == i) for j in range(len(weights))))
    return sorted(set(out))
