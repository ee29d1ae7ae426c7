"""Grain of a metric: the conditions that one value of it is about, and the resampling that fits it.

Most metrics have a value for each condition. Some have one for all conditions of a context, which stands with each of
them, and some one for the whole run; resampling conditions would say that such values have no spread at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap
from perturbfm_core.leaderboard.condition_table import units_of_key
from perturbfm_core.schema import FloatArray, IntArray

# In this order the grain of several runs is the largest of theirs: one fold in which values differ settles it.
UNKNOWN, BY_CONTEXT, BY_CONDITION, WHOLE = range(4)
# As the table of standings has them.
GRAINS = ("unknown", "context", "condition", "run")
CONTEXT = "context"


def grain_of(values: FloatArray, keys: Sequence[str]) -> IntArray:
    """Return int64 [M], the grain of each row of values [M, C] of one run.

    Parameters
    ----------
    values
        One row per metric, NaN where undefined.
    keys
        The condition keys.
    """
    if not len(keys):
        return np.full(len(values), UNKNOWN, dtype=np.int64)
    order, starts = _contexts(tuple(keys))
    ordered = values[:, order]
    several = np.add.reduceat(np.isfinite(ordered).astype(np.int64), starts, axis=1) > 1
    high, low = np.fmax.reduceat(ordered, starts, axis=1), np.fmin.reduceat(ordered, starts, axis=1)
    differ = (several & (high > low)).any(axis=1)
    return np.where(differ, BY_CONDITION, np.where(several.any(axis=1), BY_CONTEXT, UNKNOWN)).astype(np.int64)


@lru_cache(maxsize=64)
def _contexts(keys: tuple[str, ...]) -> tuple[IntArray, IntArray]:
    """Return (order that puts conditions of one context together, where each context begins in it)."""
    _, codes = np.unique([k.partition("|")[0] for k in keys], return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) > 0])
    return order.astype(np.int64), starts.astype(np.int64)


def shared_grain(a: IntArray, b: IntArray) -> IntArray:
    """Return the grain of differences of two sides [M]: by context only where both are."""
    by_context = (a == BY_CONTEXT) & (b == BY_CONTEXT)
    whole = (a == WHOLE) | (b == WHOLE)
    return np.where(whole, WHOLE, np.where(by_context, BY_CONTEXT, BY_CONDITION)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class BoardBootstrap:
    """Resampling of the conditions of a board.

    Attributes
    ----------
    units
        By the units that were held out.
    contexts
        By contexts, for metrics with one value for each.
    """

    units: ClusteredBootstrap
    contexts: ClusteredBootstrap

    @classmethod
    def of(cls, keys: Sequence[str], unit: str, **options: int) -> BoardBootstrap:
        """Return the bootstrap of conditions.

        Parameters
        ----------
        keys, unit
            The conditions, and what was held out.
        **options
            Of `ClusteredBootstrap`.
        """
        units = ClusteredBootstrap([units_of_key(k, unit) for k in keys], **options)
        if unit == CONTEXT:
            return cls(units, units)
        return cls(units, ClusteredBootstrap([units_of_key(k, CONTEXT) for k in keys], **options))
