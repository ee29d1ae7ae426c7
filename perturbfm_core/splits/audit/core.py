"""Findings of the leakage audit, registries of its checks, and functions that run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.registry.members import Discovery, Registry
from perturbfm_core.schema import BoolArray, IntArray
from perturbfm_core.splits.audit.run import RunEvidence
from perturbfm_core.splits.split import FrozenSplit

Severity = Literal["blocking", "warning"]
EXAMPLES = 5


class NotApplicable(Exception):  # noqa: N818 - not an error: the data cannot show it
    """Raised by a check that cannot be made on the data; the text gives the reason."""


@dataclass(frozen=True)
class Finding:
    """One finding of the audit.

    Attributes
    ----------
    name
        Name of the leak.
    severity
        ``blocking`` prevents fitting, ``warning`` is only shown.
    count
        Number of rows or conditions concerned.
    examples
        Some of them.
    message
        Description of the problem and what to do about it.
    """

    name: str
    severity: Severity
    count: int
    examples: tuple[str, ...]
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON."""
        return {**asdict(self), "examples": list(self.examples)}


@dataclass(frozen=True)
class Outcome:
    """Result of one check.

    Attributes
    ----------
    check
        Name of the check.
    status
        ``clean``, ``warning``, ``blocking`` or ``not_applicable``.
    findings
        Its findings.
    reason
        Why the check is not applicable, else empty.
    """

    check: str
    status: Literal["clean", "warning", "blocking", "not_applicable"]
    findings: tuple[Finding, ...] = ()
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as plain JSON."""
        return {
            "check": self.check,
            "status": self.status,
            "reason": self.reason,
            "findings": [f.to_json() for f in self.findings],
        }


Check = Callable[[PerturbDataset, FrozenSplit], Iterable[Finding]]
RunCheck = Callable[[PerturbDataset, FrozenSplit, RunEvidence], Iterable[Finding]]
_MODULES = Discovery("perturbfm_core.splits.audit")
CHECKS: Registry[Check] = Registry("audit check", SplitError, _MODULES)
RUN_CHECKS: Registry[RunCheck] = Registry("audit check of runs", SplitError, _MODULES)


def report(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence | None = None) -> list[Outcome]:
    """Return the result of every check.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of a run; without it, the checks of runs are not applicable.
    """
    out = [_outcome(name, partial(check, ds, split)) for name, check in CHECKS.items()]
    for name, run_check in RUN_CHECKS.items():
        if run is None:
            out.append(Outcome(name, "not_applicable", reason="no run is audited"))
        elif _codes_or_none(ds, split) is None:
            out.append(Outcome(name, "not_applicable", reason="split and data do not go together"))
        else:
            out.append(_outcome(name, partial(run_check, ds, split, run)))
    return out


def audit(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence | None = None) -> list[Finding]:
    """Return the findings of all checks.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of a run, to check it as well.
    """
    return [finding for outcome in report(ds, split, run) for finding in outcome.findings]


def require_clean(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence | None = None) -> list[Finding]:
    """Return the warnings of the audit.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of a run, to check it as well.

    Raises
    ------
    SplitError
        If there is a blocking finding.
    """
    findings = audit(ds, split, run)
    blocking = [f for f in findings if f.severity == "blocking"]
    if blocking:
        more = f" (and {len(blocking) - 1} more findings)" if len(blocking) > 1 else ""
        msg = f"split {split.hash[:12]} leaks: {blocking[0].name}: {blocking[0].message}{more}"
        raise SplitError(msg)
    return findings


def _outcome(name: str, run: Callable[[], Iterable[Finding]]) -> Outcome:
    try:
        findings = tuple(run())
    except NotApplicable as reason:
        return Outcome(name, "not_applicable", reason=str(reason))
    if not findings:
        return Outcome(name, "clean")
    worst: Severity = "blocking" if any(f.severity == "blocking" for f in findings) else "warning"
    return Outcome(name, worst, findings)


# ---- helpers of the checks -------------------------------------------------------------------------------


def finding(
    name: str, items: Sequence[str], message: str, severity: Severity = "blocking", count: int | None = None
) -> list[Finding]:
    """Return a list with one finding about `items`, empty if there are none.

    Parameters
    ----------
    name
        Name of the leak.
    items
        Rows or conditions concerned; the first ones become the examples.
    message
        Description of the problem and what to do about it.
    severity
        ``blocking`` or ``warning``.
    count
        Number of rows or conditions concerned, if it is not that of `items`.
    """
    n = len(items) if count is None else count
    return [Finding(name, severity, n, tuple(str(x) for x in items[:EXAMPLES]), message)] if n else []


_CODES: WeakKeyDictionary[FrozenSplit, tuple[PerturbDataset, IntArray]] = WeakKeyDictionary()


def _codes_or_none(ds: PerturbDataset, split: FrozenSplit) -> IntArray | None:
    """Return the fold code of every row, computed once per split; None if the data are not the split's."""
    known = _CODES.get(split)
    try:
        split.check_dataset(ds)
        if known is None or known[0] is not ds:
            known = (ds, split.codes(ds))
            _CODES[split] = known
    except SplitError:
        return None
    return known[1]


def fold_codes(ds: PerturbDataset, split: FrozenSplit) -> IntArray:
    """Return int8 [N], the fold code of every row.

    Raises
    ------
    NotApplicable
        If the data do not belong to the split, which the check `changed_data` reports.
    """
    codes = _codes_or_none(ds, split)
    if codes is None:
        msg = "split and data do not go together"
        raise NotApplicable(msg)
    return codes


def in_folds(codes: IntArray, *folds: str) -> BoolArray:
    """Return bool [N]: rows in any of the named folds, given the fold codes [N]."""
    return np.isin(codes, [schema.FOLDS.index(f) for f in folds])


def conditions_in(ds: PerturbDataset, codes: IntArray, *folds: str) -> pd.DataFrame:
    """Return the conditions that have rows in any of the named folds.

    Parameters
    ----------
    ds
        The data set.
    codes
        int8 [N], fold code of every row.
    folds
        Names of the folds.
    """
    return ds.conditions.iloc[np.unique(ds.condition_codes[in_folds(codes, *folds)])]


def same_condition_meant(split: FrozenSplit) -> bool:
    """Return whether train and test may share conditions: in splits by random rows or by batch."""
    return not split.definition.ood_axes or "batch" in split.definition.ood_axes
