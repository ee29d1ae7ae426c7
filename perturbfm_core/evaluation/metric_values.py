"""Values of one metric on one comparison: computed, checked, averaged over groups, and with reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import Metric, SetStatistic
from perturbfm_core.registry.sources import sources_kept
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

_OF_SEVERAL = "a statistic of several conditions together"
_FEW_NONZERO = "no more entries are nonzero"

# How the reason of a group begins: "20 of 20 conditions undefined: ...".
_OF_GROUP = re.compile(r"\b\d+ of \d+ conditions\b(?= undefined:| not applicable:)")

# What a metric returns, by how it aggregates; a ratio is a pair.
_KINDS = {
    "mean": "one value for each condition",
    "ratio": "a tuple (numerator, denominator)",
    "set": "a function from positions of conditions to one value",
}
_PAIR = 2

# (groups, group of each condition, groups to list).
Grouping = tuple[int, Any, Any]


@dataclass(frozen=True, eq=False)
class MetricValues:
    """One metric on one comparison.

    Attributes
    ----------
    metric
        The metric.
    values
        float64 [C], NaN where undefined.
    status
        ``ok`` or ``not_applicable`` (then all values are NaN).
    reason
        Why, if not applicable.
    applies
        bool [C], the conditions that the metric applies to; None for all.
    places
        For a metric of the k largest entries, int64 [C], how many there were.
    parts
        For a ratio, its (numerator, denominator), each float64 [C, parts], NaN where a part is undefined.
    statistic
        For a set metric, the function from positions of conditions to its value.
    """

    metric: Metric
    values: FloatArray
    status: str = "ok"
    reason: str | None = None
    parts: tuple[FloatArray, FloatArray] | None = None
    statistic: SetStatistic | None = None
    applies: BoolArray | None = None
    places: IntArray | None = None

    def grouped(self, codes: IntArray, n: int) -> FloatArray:
        """Return float64 [n], the values of groups of conditions, NaN where undefined.

        Parameters
        ----------
        codes
            Group of each condition [C].
        n
            Number of groups.
        """
        if self.statistic is not None:
            members = [np.flatnonzero(codes == i) for i in range(n)]
            return np.asarray([self.statistic(m) if len(m) > 1 else np.nan for m in members])
        if self.parts is None:
            return _ratio_of_sums(self.values, np.ones(len(self.values)), codes, n)
        above, below = (x.T for x in self.parts)
        ratios = [_ratio_of_sums(a, b, codes, n) for a, b in zip(above, below, strict=True)]
        return np.asarray(np.mean(ratios, axis=0))


def _ratio_of_sums(numerator: FloatArray, denominator: FloatArray, codes: IntArray, n: int) -> FloatArray:
    """Return [n]: sums of numerators over sums of denominators, over the conditions where both are defined."""
    ok = np.isfinite(numerator) & np.isfinite(denominator)
    above = np.bincount(codes[ok], weights=numerator[ok], minlength=n)
    below = np.bincount(codes[ok], weights=denominator[ok], minlength=n)
    return np.asarray(np.divide(above, below, out=np.full(n, np.nan), where=below != 0))


def table_rows(result: MetricValues, groupings: list[Grouping]) -> dict[str, Any]:
    """Return value, n, status and reason of the conditions, then of the groups of each grouping, of one metric.

    Parameters
    ----------
    result
        The metric's values.
    groupings
        Number of groups, group of each condition [C], and positions of the groups to list, of each grouping.
    """
    defined = np.isfinite(result.values)
    reason = result.reason or result.metric.undefined
    if result.statistic is not None:
        reason = f"{_OF_SEVERAL}; {reason}"
    out = np.zeros(len(defined), dtype=np.bool_) if result.applies is None else ~result.applies
    k = result.metric.k
    fewer = np.zeros_like(out) if result.places is None else defined & (result.places < k)
    if result.statistic is None and result.status == "ok" and defined.all() and not fewer.any():
        return _all_defined(result, groupings)
    values, counts = [result.values], [np.ones(len(defined), dtype=np.int64)]
    reasons: list[str | None] = [None if ok else reason for ok in defined]
    for i in np.flatnonzero(out):
        reasons[i] = result.metric.inapplicable
    if result.places is not None:
        for i in np.flatnonzero(fewer):
            reasons[i] = f"k = {result.places[i]} instead of {k}: {_FEW_NONZERO}"
    bad = ["undefined" if result.status == "ok" else result.status] * len(defined)
    status = [("not_applicable" if skip else b) for skip, b in zip(out, bad, strict=True)]
    for n, groups, keep in groupings:
        total = np.bincount(groups, minlength=n)[keep]
        good = np.bincount(groups[defined], minlength=n)[keep]
        skipped = np.bincount(groups[out], minlength=n)[keep]
        mean = result.grouped(groups, n)[keep]
        values.append(mean)
        counts.append(total)
        whole = (skipped == total) & (total > 0)
        status += ["not_applicable" if x or result.status != "ok" else "undefined" for x in whole]
        if result.statistic is not None:
            reasons += [None if np.isfinite(m) else reason for m in mean]
            continue
        if result.status != "ok":
            reasons += [reason] * len(mean)
            continue
        short = [_short(result, fewer & (groups == g)) for g in keep] if fewer.any() else [None] * len(mean)
        for t, g, s, m, few in zip(total, good, skipped, mean, short, strict=True):
            said = []
            if t > g + s or (not np.isfinite(m) and not s):
                said.append(f"{t - g - s} of {t} conditions undefined: {reason}")
            if s:
                said.append(f"{s} of {t} conditions not applicable: {result.metric.inapplicable}")
            if few is not None:
                said.append(few.format(total=t))
            reasons.append("; ".join(said) or None)
    value = np.concatenate(values)
    return {
        "value": value,
        "n": np.concatenate(counts),
        "status": np.where(np.isfinite(value), "ok", np.asarray(status, dtype=object)).astype(object),
        "reason": np.asarray(reasons, dtype=object),
    }


def without_counts(reason: str) -> str:
    """Return the reason of a group without the numbers of its conditions: "conditions undefined: ..."."""
    return _OF_GROUP.sub("conditions", reason)


def _all_defined(result: MetricValues, groupings: list[Grouping]) -> dict[str, Any]:
    """Return `table_rows` of a metric that every condition has a value of, so that nothing must be said of most."""
    values, counts = [result.values], [np.ones(len(result.values), dtype=np.int64)]
    for n, groups, keep in groupings:
        values.append(result.grouped(groups, n)[keep])
        counts.append(np.bincount(groups, minlength=n)[keep])
    value, n_of = np.concatenate(values), np.concatenate(counts)
    status, reasons = np.full(len(value), "ok", dtype=object), np.full(len(value), None, dtype=object)
    for i in np.flatnonzero(~np.isfinite(value)):
        status[i] = "undefined"
        reasons[i] = f"0 of {n_of[i]} conditions undefined: {result.metric.undefined}"
    return {"value": value, "n": n_of, "status": status, "reason": reasons}


def _short(result: MetricValues, few: BoolArray) -> str | None:
    """Return what to say of a group with conditions of fewer than k entries, but for its size."""
    if result.places is None or not few.any():
        return None
    return (
        f"k is below {result.metric.k} in {int(few.sum())} of {{total}} conditions, at least "
        f"{int(result.places[few].min())}: {_FEW_NONZERO}"
    )


def run_metric(metric: Metric, comparison: Comparison, level: str) -> MetricValues:
    """Return the values of a metric.

    Parameters
    ----------
    metric
        The metric.
    comparison
        Observed and predicted deltas, aligned.
    level
        Level of the data set, ``cell`` or ``condition``.

    Raises
    ------
    MetricError
        If the metric or a hook of it raises or returns the wrong shape, or a value is infinite.
    """
    empty = np.full(len(comparison), np.nan)
    if metric.needs == "cells" and (level != "cell" or comparison.cells is None):
        return MetricValues(metric, empty, "not_applicable", "the data set has no single cells with controls")
    if metric.needs == "variance" and comparison.var_filled:
        return MetricValues(metric, empty, "not_applicable", "the prediction came without a variance")
    name, n = f"metric {metric.panel}.{metric.name}", len(comparison)
    try:
        with sources_kept(getattr(metric.function, "__module__", "")):
            given: Any = metric.function(comparison)
            applies = None if metric.applies is None else np.asarray(metric.applies(comparison))
            places = None if metric.places is None else np.asarray(metric.places(comparison))
    except Exception as error:
        msg = f"{name} failed: {type(error).__name__}: {error}"
        raise MetricError(msg) from error
    _check_vector(f"{name}: `applies`", applies, n, "b", "bool")
    _check_vector(f"{name}: `places`", places, n, "iu", "int")
    wanted = _KINDS[metric.aggregate]
    found = "set" if callable(given) else "ratio" if isinstance(given, tuple) else "mean"
    if found != metric.aggregate:
        msg = f"{name} aggregates as {metric.aggregate}, so it must return {wanted}, found {type(given).__name__}"
        raise MetricError(msg)
    if metric.aggregate == "set":
        return MetricValues(metric, empty, statistic=_checked(metric, given))
    parts = None
    if isinstance(given, tuple):
        parts = _parts(name, given, n)
        if applies is not None:
            parts = (
                np.where(applies[:, None], parts[0], np.nan),
                np.where(applies[:, None], parts[1], np.nan),
            )
        with np.errstate(invalid="ignore"):
            ratio = np.divide(*parts, out=np.full_like(parts[0], np.nan), where=parts[1] != 0)
        values = np.asarray(ratio.mean(axis=1))
    else:
        values = _floats(name, given)
        if values.shape != empty.shape:
            msg = (
                f"{name} gave values of shape {values.shape}; expected {empty.shape}, one for each condition"
            )
            raise MetricError(msg)
    infinite = np.any([np.isinf(x).any(axis=1) for x in parts], axis=0) if parts else np.isinf(values)
    infinite = infinite | np.isinf(values)
    if infinite.any():
        msg = (
            f"{name} is infinite for {int(infinite.sum())} of {n} conditions; give NaN where it is undefined"
        )
        raise MetricError(msg)
    if applies is not None:
        values = np.where(applies, values, np.nan)
    return MetricValues(metric, values, parts=parts, applies=applies, places=places)


def _floats(name: str, given: Any) -> FloatArray:
    """Return float64 values of what a metric gave; raise `MetricError` if it is no array of numbers."""
    try:
        return np.asarray(given, dtype=np.float64)
    except Exception as error:
        msg = f"{name} failed: {type(error).__name__}: {error}"
        raise MetricError(msg) from error


def _parts(name: str, given: tuple[Any, ...], n: int) -> tuple[FloatArray, FloatArray]:
    """Return numerator and denominator of a ratio, each [C, parts]; raise `MetricError` if they are malformed."""
    if len(given) != _PAIR:
        msg = f"{name} gave {len(given)} arrays; a ratio is a pair (numerator, denominator)"
        raise MetricError(msg)
    above, below = (_floats(name, x) for x in given)
    if above.shape != below.shape or above.ndim not in (1, 2) or len(above) != n or above.size == 0 < n:
        msg = f"{name} gave numerator {above.shape} and denominator {below.shape}; both must be ({n},) or ({n}, parts)"
        raise MetricError(msg)
    return (above, below) if above.ndim > 1 else (above[:, None], below[:, None])


def _check_vector(what: str, given: Any, n: int, kinds: str, dtype: str) -> None:
    """Raise `MetricError` if what a hook of a metric gave is no array [n] of its kind; None is none.

    Parameters
    ----------
    what
        The hook, for the message.
    given
        What it gave.
    n
        Number of conditions.
    kinds, dtype
        Letters of the allowed kinds of numbers, and their name.
    """
    if given is not None and (given.shape != (n,) or given.dtype.kind not in kinds):
        msg = f"{what} must give {dtype} ({n},), one for each condition, found {given.dtype} {given.shape}"
        raise MetricError(msg)


def _checked(metric: Metric, statistic: SetStatistic) -> SetStatistic:
    """Return the statistic of a set metric, wrapped so that it fails the panel if it raises or is infinite."""

    def value(positions: IntArray) -> float:
        try:
            out = float(statistic(positions))
        except Exception as error:
            msg = f"metric {metric.panel}.{metric.name} failed: {type(error).__name__}: {error}"
            raise MetricError(msg) from error
        if np.isinf(out):
            msg = f"metric {metric.panel}.{metric.name} is infinite for {len(positions)} conditions"
            raise MetricError(msg)
        return out

    return value
