"""Audit of borrowed effects: what another data set that a fit read has of the test conditions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.condition import pert_parts
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import SplitError
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.audit.core import RUN_CHECKS, Finding, NotApplicable, finding
from perturbfm_core.splits.audit.rescaled import rescaled_copies, spread, tells
from perturbfm_core.splits.audit.run import BORROWED, FitRecord, RunEvidence, TestOverlap
from perturbfm_core.splits.split import FrozenSplit

# Rows that are compared by value, at most.
_COMPARED = 200
# Of as many perturbations at most, where rows are looked for under other ids; donor rows that are read at once.
_PERTURBATIONS, _BLOCK = 25, 512
_TOLERANCE = 1e-3
# Expressed genes from which two rows of the same id do not agree by chance.
_EXPRESSED = 5


@RUN_CHECKS.register("borrowed_test_measurements", order=40)
def borrowed_test_measurements(ds: PerturbDataset, split: FrozenSplit, run: RunEvidence) -> list[Finding]:
    """Find data sets that effects were borrowed from and that hold measurements of the test conditions.

    The data set itself, and test rows of it in another one, are a leak. The same perturbation in another screen is what
    is borrowed, and is stated.

    Parameters
    ----------
    ds
        The data set.
    split
        The split.
    run
        Predictions and records of the run.

    Raises
    ------
    NotApplicable
        If the run does not declare what it was made from, or borrowed nothing.
    """
    if run.records.made is None:
        msg = "the run does not declare what it was made from (made)"
        raise NotApplicable(msg)
    records = [r for r in run.records.made if r.what == BORROWED]
    if not records:
        msg = "the run borrowed from no other data set"
        raise NotApplicable(msg)
    leaks = [why for r in records if (why := leak_of(ds, r)) is not None]
    return [*finding("borrowed_test_measurements", leaks, "; ".join(leaks)), *borrowed_findings(records)]


def borrowed_findings(records: Iterable[FitRecord]) -> list[Finding]:
    """Return what is stated of the data sets that effects were borrowed from: what they have of the test conditions."""
    used = [said for r in records if r.what == BORROWED and (said := stated(r)) is not None]
    return finding("borrowed_test_measurements", used, "; ".join(used), severity="warning")


def leak_of(ds: PerturbDataset, record: FitRecord) -> str | None:
    """Return why effects must not be borrowed from a data set, None if they may."""
    if record.content_sha256 == ds.content_sha256:
        return (
            f"{record.name!r} is the data set {ds.name!r} itself (content {ds.content_sha256[:12]}), test conditions "
            "included; borrow from another screen"
        )
    if record.overlap is not None and record.overlap.same_values:
        o = record.overlap
        return (
            f"{record.name!r} holds the test conditions' own measurements: {o.rows} rows of {ds.name!r} by id, "
            f"{o.same_values} with the same values; borrow from a context or a screen without them"
        )
    if record.overlap is not None and record.overlap.same_profiles:
        o = record.overlap
        return (
            f"{record.name!r} holds the test conditions' own measurements: {o.same_profiles} of {o.compared} compared test rows "
            f"of {ds.name!r} are there, under whatever ids and scale; borrow from a context or a screen without them"
        )
    return None


def stated(record: FitRecord) -> str | None:
    """Return what a data set has of the test conditions, in words, or that it is not declared; None if nothing."""
    o = record.overlap
    if o is None:
        return f"effects of {record.name!r} were read, and what it has measured of the test conditions is not declared (overlap)"
    if not o.measured:
        return None
    said = f"effects of {record.name!r} were read, which has measured {o.measured} of {o.perturbations} test perturbations"
    if o.same_context:
        said += f"; {o.same_context} test conditions in a context of the same name"
    if o.rows:
        said += f"; {o.rows} rows have the ids of test rows, with other values"
    return said


def borrowed_record(
    ds: PerturbDataset, split: FrozenSplit, donor: PerturbDataset, context: str | None, name: str
) -> FitRecord:
    """Return the record of effects borrowed from a donor for a split.

    Parameters
    ----------
    ds, split
        The data set that borrows, and its split.
    donor
        The data set borrowed from.
    context
        The donor's only context that is read, None for all.
    name
        The donor in messages.

    Raises
    ------
    SplitError
        If the donor is the same data set, or holds the test conditions' own measurements.
    """
    record = FitRecord(
        what="borrowed", name=name, rows="external", content_sha256=donor.content_sha256, overlap=None
    )
    if leak_of(ds, record) is None:
        record = record.model_copy(update={"overlap": _overlap(ds, split, donor, context)})
    if (why := leak_of(ds, record)) is not None:
        msg = f"split {split.hash[:12]} would leak: {why}"
        raise SplitError(msg)
    return record


def donor_rows(donor: PerturbDataset, context: str | None) -> IntArray:
    """Return the perturbed rows of a donor, of one context or of all."""
    treated = donor.condition_codes >= 0
    if context is not None:
        treated &= (donor.obs[schema.CONTEXT_ID].astype(str) == context).to_numpy()
    return np.flatnonzero(treated)


def _overlap(
    ds: PerturbDataset, split: FrozenSplit, donor: PerturbDataset, context: str | None
) -> TestOverlap:
    test = split.rows(ds, "test", "calib")
    test = test[ds.condition_codes[test] >= 0]
    asked = ds.conditions.iloc[np.unique(ds.condition_codes[test])]
    theirs = donor_rows(donor, context)
    given = donor.conditions.iloc[np.unique(donor.condition_codes[theirs])]
    known = set(given[schema.PERT_ID].astype(str))
    perts = set(asked[schema.PERT_ID].astype(str))
    places = set(_pairs(given))
    mine, other = _shared_rows(ds, test, donor, theirs)
    compared, same_profiles = _same_profiles(ds, test, donor, theirs)
    if not same_profiles:
        n, same_profiles = rescaled_copies(ds, test, donor, theirs)
        compared = max(compared, n) if same_profiles else compared
    return TestOverlap(
        perturbations=len(perts),
        measured=sum(p in known or known.issuperset(pert_parts(p)) for p in perts),
        same_context=sum(pair in places for pair in _pairs(asked)),
        rows=len(mine),
        same_values=_same_values(ds, mine, donor, other),
        compared=compared,
        same_profiles=same_profiles,
    )


def _pairs(conditions: pd.DataFrame) -> list[tuple[str, str]]:
    columns = (conditions[c].astype(str) for c in (schema.CONTEXT_ID, schema.PERT_ID))
    return list(zip(*columns, strict=True))


def _shared_rows(
    ds: PerturbDataset, test: IntArray, donor: PerturbDataset, theirs: IntArray
) -> tuple[IntArray, IntArray]:
    """Return the positions, here and in the donor, of rows with the same id and the same perturbation."""
    where = pd.Index(donor.row_ids[theirs]).get_indexer(pd.Index(ds.row_ids[test]))
    mine, other = test[where >= 0], theirs[where[where >= 0]]
    a = ds.obs[schema.PERT_ID].astype(str).to_numpy()[mine]
    b = donor.obs[schema.PERT_ID].astype(str).to_numpy()[other]
    return mine[a == b], other[a == b]


def _same_values(ds: PerturbDataset, mine: IntArray, donor: PerturbDataset, other: IntArray) -> int:
    """Return how many of the first rows, up to a limit, have the same values on the genes of both data sets."""
    mine, other = mine[:_COMPARED], other[:_COMPARED]
    at = pd.Index(donor.genes).get_indexer(pd.Index(ds.genes))
    if not len(mine) or not (at >= 0).any():
        return 0
    a = _directions(_profile(ds, mine)[:, at >= 0])
    b = _directions(_profile(donor, other)[:, at[at >= 0]])
    # A cell with a handful of expressed genes may equal another by chance.
    enough = (a != 0).sum(axis=1) >= min(_EXPRESSED, a.shape[1])
    return int(((np.linalg.norm(a - b, axis=1) < _TOLERANCE) & enough).sum())


def _same_profiles(
    ds: PerturbDataset, test: IntArray, donor: PerturbDataset, theirs: IntArray
) -> tuple[int, int]:
    """Return (how many test rows were compared, how many equal some donor's row of the same perturbation).

    Ids are not read: those of a copy are often made anew. Compared are some rows of some perturbations that both have, evenly
    spread; rows with few expressed genes and few values are left out, which may agree by chance.
    """
    at = pd.Index(donor.genes).get_indexer(pd.Index(ds.genes))
    mine = ds.obs[schema.PERT_ID].astype(str).to_numpy()[test]
    other = donor.obs[schema.PERT_ID].astype(str).to_numpy()[theirs]
    both = spread(np.intersect1d(mine, other), _PERTURBATIONS)
    if not len(both) or not (at >= 0).any():
        return 0, 0
    compared = same = 0
    for pert in both:
        rows = spread(test[mine == pert], max(_COMPARED // len(both), 1))
        profiles = _profile(ds, rows)[:, at >= 0]
        telling = [tells(x) for x in profiles]
        a = _directions(profiles[telling])
        nearest = np.full(len(a), -1.0)
        candidates = theirs[other == pert]
        for start in range(0, len(candidates) if len(a) else 0, _BLOCK):
            b = _directions(_profile(donor, candidates[start : start + _BLOCK])[:, at[at >= 0]])
            nearest = np.maximum(nearest, (a @ b.T).max(axis=1))
        compared += len(a)
        # |a - b|^2 = 2 - 2 a·b for unit vectors.
        same += int((2.0 - 2.0 * nearest < _TOLERANCE**2).sum())
    return compared, same


def _directions(profiles: FloatArray) -> FloatArray:
    """Return rows [n, G] at unit length: library sizes differ between selections of genes."""
    size = np.linalg.norm(profiles, axis=1, keepdims=True)
    return np.asarray(profiles / np.maximum(size, 1e-12))


def _profile(ds: PerturbDataset, rows: IntArray) -> FloatArray:
    """Return float64 [n, G], counts per row up to a factor, or differences where there is nothing else."""
    counts = ds.streamed.counts
    values: Any = counts if counts is not None else ds.expression
    if values is None:
        return np.asarray(ds.delta(rows), dtype=np.float64)
    picked = values[rows]
    out = np.asarray(picked.toarray() if sp.issparse(picked) else picked, dtype=np.float64)
    return out if counts is not None else np.expm1(out)
