"""Mean, interval and difference to a reference of one entry on one board, for all of its metrics at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from perturbfm_core.leaderboard.bootstrap import ClusteredBootstrap, percentile_interval
from perturbfm_core.leaderboard.condition_matrix import ConditionMatrix, ScoredMetric
from perturbfm_core.leaderboard.declared_metrics import Declarations
from perturbfm_core.leaderboard.fold_conditions import FoldConditions
from perturbfm_core.leaderboard.grain import BY_CONDITION, BY_CONTEXT, WHOLE, BoardBootstrap, shared_grain
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
    grain, n_units
        How many conditions one value is about (see `grain`), and of how many units, or of contexts where it is about a
        context, there are values, each [M].
    """

    metrics: tuple[ScoredMetric, ...]
    estimates: Estimates
    n_scored: IntArray
    n_defined: IntArray
    grain: IntArray
    n_units: IntArray


def entry_scores(matrix: ConditionMatrix, bootstrap: BoardBootstrap, declared: Declarations) -> EntryScores:
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
    defined = np.isfinite(values)
    n_units = bootstrap.units.count_units(defined)
    by_context = matrix.grain == BY_CONTEXT
    n_units[by_context] = bootstrap.contexts.count_units(defined[by_context])
    return EntryScores(
        matrix.metrics,
        _of_grain(values, parts, matrix.grain, bootstrap),
        matrix.scored.sum(axis=1).astype(np.int64),
        defined.sum(axis=1).astype(np.int64),
        matrix.grain,
        np.where(matrix.grain == WHOLE, 0, n_units),
    )


def differences(
    matrix: ConditionMatrix,
    references: Sequence[tuple[ConditionMatrix, int] | None],
    places: FoldConditions,
    bootstrap: BoardBootstrap,
    declared: Declarations,
) -> Estimates:
    """Return the paired differences of an entry to a reference, over the conditions that both have defined.

    They are paired split by split before they are averaged by condition, so that an entry that has run some folds is
    compared with what its reference reaches on these.

    Parameters
    ----------
    matrix
        The entry, over the places of the board.
    references
        For each of its metrics the reference over the same places and the grain of its values, None where there is
        none.
    places
        Of the board.
    bootstrap
        Of the board.
    declared
        What metrics say of themselves.
    """
    own = matrix.mean
    aligned = {name: _aligned(r, matrix) for name, r in {id(r[0]): r[0] for r in references if r}.items()}
    shifted = np.full(own.shape, np.nan)
    beside = np.full(len(own), BY_CONDITION, dtype=np.int64)
    for i, found in enumerate(references):
        if found is not None:
            shifted[i], beside[i] = own[i] - aligned[id(found[0])][i], found[1]
    parts: list[Part] = []
    for i, a, b in _ratio_parts(matrix.metrics, declared):
        found = references[i]
        if found is not None:
            # Both sides are divided by what the entry itself is divided by.
            above = own[a] - aligned[id(found[0])][a]
            below = np.where(np.isfinite(above), own[b], np.nan)
            parts.append((i, *places.by_condition(np.stack([above, below]))))
    grain = shared_grain(matrix.grain, beside)
    return _of_grain(places.by_condition(shifted), parts, grain, bootstrap)


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


def _of_grain(
    values: FloatArray, parts: Sequence[Part], grain: IntArray, bootstrap: BoardBootstrap
) -> Estimates:
    """Return the estimates of rows [M, C], each with the interval that fits its grain.

    Parameters
    ----------
    values, parts
        See `_estimates`.
    grain
        Of each row [M].
    bootstrap
        Of the board.
    """
    found = _estimates(values, parts, bootstrap.units)
    rows = np.flatnonzero(grain == BY_CONTEXT)
    if len(rows) and bootstrap.contexts is not bootstrap.units:
        place = {int(row): i for i, row in enumerate(rows)}
        own = [(place[i], a, b) for i, a, b in parts if i in place]
        again = _estimates(values[rows], own, bootstrap.contexts)
        found.low[rows], found.high[rows] = again.low, again.high
    whole = grain == WHOLE
    found.low[whole] = found.high[whole] = np.nan
    return found


def _estimates(values: FloatArray, parts: Sequence[Part], bootstrap: ClusteredBootstrap) -> Estimates:
    """Return the estimates of rows [M, C], of which some are ratios of means.

    Parameters
    ----------
    values
        One row per metric.
    parts
        Parts of the ratios.
    bootstrap
        Of its units.
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
