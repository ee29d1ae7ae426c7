"""Parity cases: comparison of this project's metrics with the numbers of another benchmark's own code.

A peer is a benchmark whose metrics are reimplemented here. A case is a folder with its inputs and its numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any
from zipfile import BadZipFile

import numpy as np

from perturbfm_core.errors import DatasetError, MetricError
from perturbfm_core.registry.members import Discovery, Registry


@dataclass(frozen=True)
class Record:
    """One number of the peer and of this project.

    Attributes
    ----------
    metric
        Name by which records are grouped in the summary.
    key
        What the number belongs to (condition, method, ...).
    expected, got
        The peer's value and this project's; NaN means undefined, and equals NaN.
    atol, rtol
        ``|got - expected| <= atol + rtol * |expected|`` passes.
    skipped
        The reason why the record is not compared, None if it is.
    low, high
        If given, any `got` between them passes (for ties that the peer breaks at random).
    fault
        The error with which this project's computation of it ended, None where there is a number.
    """

    metric: str
    key: str
    expected: float
    got: float
    atol: float = 0.0
    rtol: float = 0.0
    skipped: str | None = None
    low: float | None = None
    high: float | None = None
    fault: str | None = None

    @property
    def ok(self) -> bool:
        """Return whether `got` equals `expected` within tolerance."""
        if self.fault is not None:
            return False
        if np.isnan(self.expected) or np.isnan(self.got):
            return bool(np.isnan(self.expected) and np.isnan(self.got))
        if np.isinf(self.expected) or np.isinf(self.got):
            return self.expected == self.got
        if (
            self.low is not None
            and self.high is not None
            and self.low - 1e-12 <= self.got <= self.high + 1e-12
        ):
            return True
        return abs(self.got - self.expected) <= self.atol + self.rtol * abs(self.expected)


# What goes wrong with a record, or a file, of a form that the comparison does not know.
_UNKNOWN_FORM = (KeyError, IndexError, TypeError, ValueError, AttributeError, MetricError)
# What else may go wrong in a computation.
_OTHER_FAULTS = (ArithmeticError, AssertionError, RuntimeError)
_SOURCE = Path(__file__).parents[1]
# The first letters of modules that read cases and compare them.
_COMPARISON = "parity"
_NOT_FINITE = ("inf", "+inf", "-inf", "infinity", "-infinity", "nan")
UNKNOWN = "unknown form of record"
ILL_CONDITIONED = "ill_conditioned"


def not_compared(metric: str, key: str, reason: str) -> Record:
    """Return a record that is counted with the reason why it is not compared.

    Parameters
    ----------
    metric, key
        See `Record`.
    reason
        Why it is not compared.
    """
    return Record(metric, key, float("nan"), float("nan"), skipped=reason)


def known_form(metric: str, key: str, records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records of one part of a case; what is of an unknown form becomes one that is not compared.

    An error in a module that computes is a fault of this project, and becomes a record that has failed.

    Parameters
    ----------
    metric, key
        Metric and key of the record that is yielded for an unknown form or a fault.
    records
        The records, made one by one.
    """
    made = iter(records)
    while True:
        try:
            record = next(made)
        except StopIteration:
            return
        except (*_UNKNOWN_FORM, *_OTHER_FAULTS) as error:
            if _while_computing(error):
                fault = f"{type(error).__name__}: {_one_line(error)}"
                yield Record(metric, key, float("nan"), float("nan"), fault=fault)
                return
            if not isinstance(error, _UNKNOWN_FORM):
                raise
            yield not_compared(metric, key, f"{UNKNOWN} ({type(error).__name__}: {_one_line(error)})")
            return
        yield record


def _while_computing(error: Exception) -> bool:
    """Return whether an error comes from a module that computes; one that refuses its input (`MetricError`) does not."""
    files = [Path(frame.f_code.co_filename) for frame, _ in walk_tb(error.__traceback__)]
    own = [file for file in files if _SOURCE in file.parents]
    return bool(own) and not own[-1].name.startswith(_COMPARISON) and not isinstance(error, MetricError)


def number(value: object) -> float:
    """Return a number of a case's expected values, NaN for null.

    JSON has no infinite numbers: they are text, such as ``-inf``.

    Raises
    ------
    MetricError
        If it is other text, a boolean, a list or an object.
    """
    if value is None:
        return float("nan")
    if isinstance(value, str) and value.strip().lower() in _NOT_FINITE:
        return float(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        msg = f"{type(value).__name__} where a number is expected"
        raise MetricError(msg)
    return float(value)


def compared(metric: str, key: str, value: object, make: Callable[[float], Record]) -> Record:
    """Return the record of one number, one that is not compared where it is not a number.

    Parameters
    ----------
    metric, key
        See `Record`.
    value
        The peer's value as it is in the case, null for undefined.
    make
        (the peer's value) -> the record.
    """
    try:
        return make(number(value))
    except MetricError as error:
        return not_compared(metric, key, f"{UNKNOWN} ({_one_line(error)})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


@dataclass(frozen=True)
class CaseKind:
    """One kind of parity case.

    Attributes
    ----------
    name
        Shown as ``kind``.
    matches
        (directory) -> whether its files are of this kind.
    compare
        (directory) -> records.
    """

    name: str
    matches: Callable[[Path], bool]
    compare: Callable[[Path], Iterable[Record]]


KINDS: Registry[CaseKind] = Registry(
    "parity case kind", MetricError, Discovery("perturbfm_core.evaluation.panels", "parity*")
)


def register_case(
    name: str, matches: Callable[[Path], bool]
) -> Callable[[Callable[[Path], Iterable[Record]]], Any]:
    """Register the decorated comparison as a kind of parity case.

    Parameters
    ----------
    name
        Name of the kind.
    matches
        (directory) -> whether its files are of this kind.
    """

    def register(compare: Callable[[Path], Iterable[Record]]) -> Callable[[Path], Iterable[Record]]:
        KINDS.add(name, CaseKind(name, matches, compare))
        return compare

    return register


def _matches(kind: CaseKind, folder: Path) -> bool:
    """Return whether a folder is a case of a kind; no folder with files that cannot be read is."""
    try:
        return kind.matches(folder)
    except (OSError, *_UNKNOWN_FORM):
        return False


def _records(kind: CaseKind, folder: Path) -> Iterator[Record]:
    def made() -> Iterator[Record]:
        yield from kind.compare(folder)

    try:
        yield from known_form("case", "the rest of the case", made())
    except (OSError, EOFError, BadZipFile, DatasetError) as error:
        # Errors of other libraries may be long; our own say in one line what to do.
        why = str(error) if isinstance(error, DatasetError) else _one_line(error)
        msg = f"a file of parity case {folder} cannot be read ({why})"
        raise MetricError(msg) from error


def run_case(folder: Path) -> dict[str, Any]:
    """Compare a parity case and return ``{case, kind, compared, skipped, failed, reasons, metrics, failures}``.

    ``skipped`` counts the records that are not compared, ``reasons`` says why. A failure with ``error`` is a computation
    that ended with it.

    Raises
    ------
    MetricError
        If the folder is not a parity case, matches several kinds, or has a file that cannot be read.
    """
    kinds = [kind for _, kind in KINDS.items() if folder.is_dir() and _matches(kind, folder)]
    if len(kinds) != 1:
        found = (
            ", ".join(sorted(p.name for p in folder.glob("*"))[:8])
            if folder.is_dir()
            else "no such directory"
        )
        msg = f"{folder} is no parity case this program knows (kinds: {', '.join(KINDS.names())}); found: {found}"
        raise MetricError(msg)
    metrics: dict[str, dict[str, Any]] = {}
    failures: list[dict[str, Any]] = []
    for record in _records(kinds[0], folder):
        entry = metrics.setdefault(
            record.metric,
            {
                "compared": 0,
                "skipped": 0,
                "failed": 0,
                "max_abs_diff": 0.0,
                "max_rel_diff": 0.0,
                "tolerance": f"{record.atol:g} + {record.rtol:g} |x|",
                "reasons": {},
            },
        )
        if record.skipped is not None:
            entry["skipped"] += 1
            entry["reasons"][record.skipped] = entry["reasons"].get(record.skipped, 0) + 1
            continue
        entry["compared"] += 1
        gap = abs(record.got - record.expected)
        if np.isfinite(gap):
            entry["max_abs_diff"] = max(entry["max_abs_diff"], float(gap))
            if record.expected != 0:
                entry["max_rel_diff"] = max(entry["max_rel_diff"], float(gap / abs(record.expected)))
        if not record.ok:
            entry["failed"] += 1
            failure = {
                "metric": record.metric,
                "key": record.key,
                "expected": record.expected,
                "got": record.got,
            }
            failures.append(failure if record.fault is None else {**failure, "error": record.fault})
    reasons: Counter[str] = Counter()
    for entry in metrics.values():
        reasons.update(entry["reasons"])
    return {
        "case": folder.name,
        "kind": kinds[0].name,
        "compared": sum(m["compared"] for m in metrics.values()),
        "skipped": sum(m["skipped"] for m in metrics.values()),
        "failed": len(failures),
        "reasons": dict(reasons.most_common()),
        "metrics": metrics,
        "failures": sorted(failures, key=lambda failure: "error" not in failure)[:20],
    }
