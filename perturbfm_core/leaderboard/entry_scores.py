"""Mean, interval and difference to a reference of one entry on one board, for all of its metrics at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap, percentile_interval
from perturbfm_core.leaderboard.condition_matrix import ConditionMatrix, ScoredMetric
from perturbfm_core.leaderboard.declared_metrics import Declarations
from perturbfm_core.schema import FloatArray, IntArray

# A metric, and values by condition of what is averaged above and below in one part of its ratio.
Part = tuple[int, FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class Estimates:
    """A mean per metric with its 95 % interval, each [M]; NaN where there is none."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, eq=False)
class EntryScores:
    """What the conditions of an entry give by themselves.

    Attributes
    ----------
    metrics
        The M metrics of the entry.
    estimates
        Means over its defined conditions.
    n_scored, n_defined
        Conditions with a value or a reason for none, and with a value, each [M].
    """

    metrics: tuple[ScoredMetric, ...]
    estimates: Estimates
    n_scored: IntArray
    n_defined: IntArray


def entry_scores(
    matrix: ConditionMatrix, bootstrap: ClusteredBootstrap, declared: Declarations
) -> EntryScores:
    """Return the scores of an entry from its matrix over the board's conditions.

    Parameters
    ----------
    matrix
        The entry.
    bootstrap
        Of the board.
    declared
        What metrics say of themselves.
    """
    values = matrix.mean
    parts = [(i, values[a], values[b]) for i, a, b in _ratio_parts(matrix.metrics, declared)]
    return EntryScores(
        matrix.metrics,
        _estimates(values, parts, bootstrap),
        matrix.scored.sum(axis=1).astype(np.int64),
        np.isfinite(values).sum(axis=1).astype(np.int64),
    )


def differences(
    matrix: ConditionMatrix,
    references: Sequence[ConditionMatrix | None],
    bootstrap: ClusteredBootstrap,
    declared: Declarations,
) -> Estimates:
    """Return the paired differences of an entry to a reference, over the conditions that both have defined.

    Parameters
    ----------
    matrix
        The entry.
    references
        The reference of each of its metrics, None where there is none; all over the same conditions.
    bootstrap
        Of the board.
    declared
        What metrics say of themselves.
    """
    own = matrix.mean
    aligned = {
        name: _aligned(r, matrix) for name, r in {id(r): r for r in references if r is not None}.items()
    }
    shifted = np.full(own.shape, np.nan)
    for i, reference in enumerate(references):
        if reference is not None:
            shifted[i] = own[i] - aligned[id(reference)][i]
    parts: list[Part] = []
    for i, a, b in _ratio_parts(matrix.metrics, declared):
        reference = references[i]
        if reference is not None:
            # Both sides are divided by what the entry itself is divided by.
            parts.append((i, own[a] - aligned[id(reference)][a], own[b]))
    return _estimates(shifted, parts, bootstrap)


def _aligned(reference: ConditionMatrix, matrix: ConditionMatrix) -> FloatArray:
    """Return the values of a reference in the metrics of another matrix, NaN where it lacks one."""
    if reference.metrics == matrix.metrics:
        return reference.mean
    places = {(m.panel, m.metric): i for i, m in enumerate(reference.metrics)}
    at = [places.get((m.panel, m.metric), -1) for m in matrix.metrics]
    return np.vstack([reference.mean, np.full((1, reference.mean.shape[1]), np.nan)])[at]


@lru_cache(maxsize=16)
def _ratio_parts(metrics: tuple[ScoredMetric, ...], declared: Declarations) -> list[tuple[int, int, int]]:
    """Return (metric, what is averaged above, and below) of every part of every metric that is a ratio of means."""
    places = {(m.panel, m.metric): i for i, m in enumerate(metrics)}
    out = []
    for i, m in enumerate(metrics):
        metric = declared(m.panel, m.metric)
        pairs = () if metric is None else metric.ratio_of
        found = [(places.get((m.panel, a), -1), places.get((m.panel, b), -1)) for a, b in pairs]
        if all(a >= 0 and b >= 0 for a, b in found):
            out += [(i, a, b) for a, b in found]
    return out


def _estimates(values: FloatArray, parts: Sequence[Part], bootstrap: ClusteredBootstrap) -> Estimates:
    """Return the estimates of rows [M, C], of which some are ratios of means.

    Parameters
    ----------
    values
        One row per metric.
    parts
        Parts of the ratios.
    bootstrap
        Of the board.
    """
    ok = np.isfinite(values)
    n = ok.sum(axis=1)
    value = np.full(len(values), np.nan)
    np.divide(np.where(ok, values, 0.0).sum(axis=1), n, out=value, where=n > 0)
    low, high = bootstrap.row_intervals(values)
    if parts:
        rows, first = np.unique([i for i, _, _ in parts], return_index=True)
        sizes = np.diff([*first, len(parts)])
        upper, lower = np.stack([a for _, a, _ in parts]), np.stack([b for _, _, b in parts])
        ratio, drawn = bootstrap.row_ratios(upper, lower)
        value[rows] = np.add.reduceat(ratio, first) / sizes
        if drawn is not None:
            low[rows], high[rows] = percentile_interval(
                np.add.reduceat(drawn, first, axis=0) / sizes[:, None]
            )
    return Estimates(value, low, high)
