"""Rows of another data set that are test rows with each gene scaled or shifted, as z-scores are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import take_rows
from perturbfm_core.schema import FloatArray, IntArray, StrArray

# Contexts, perturbations and rows of these that are compared, at most; rows that scale and shift are estimated on.
_CONTEXTS, _PERTURBATIONS, _COMPARED, _ESTIMATED, _BLOCK = 5, 25, 200, 500, 512
# Rows are paired by the cosine of their standardised values; so many pairs, and genes that vary, say something.
_ALIKE, _FEWEST_PAIRS, _FEWEST_GENES = 0.9, 6, 10
# Of each gene of copies, the values are a multiple of the others plus a constant, but for rounding in single precision; no two
# measurements correlate so.
_EXACT, _NEARLY_ALL = 1e-6, 0.9
# Expressed genes from which no two rows agree by chance, or as many different values.
_EXPRESSED, _DISTINCT = 20, 8
# log1p expression lies below this, and may have been scaled before the logarithm.
_LOG1P_CEILING = 25.0


def rescaled_copies(
    ds: PerturbDataset, test: IntArray, donor: PerturbDataset, theirs: IntArray
) -> tuple[int, int]:
    """Return (how many test rows were compared, how many are in the donor with genes scaled or shifted).

    Parameters
    ----------
    ds, test
        The data set that borrows, and its test rows.
    donor, theirs
        The data set borrowed from, and its rows that are read.
    """
    at = pd.Index(donor.genes).get_indexer(pd.Index(ds.genes))
    mine, other = _perts(ds, test), _perts(donor, theirs)
    both = spread(np.intersect1d(mine, other), _PERTURBATIONS)
    if not len(both) or (at >= 0).sum() < _FEWEST_GENES:
        return 0, 0
    tested, candidates = test[np.isin(mine, both)], theirs[np.isin(other, both)]
    every = np.flatnonzero((ds.condition_codes >= 0) & np.isin(_perts(ds, np.arange(ds.n_obs)), both))
    contexts = spread(np.unique(_contexts(ds, tested)), _CONTEXTS)
    compared = same = 0
    for name in contexts:
        rows = spread(tested[_contexts(ds, tested) == name], _COMPARED // len(contexts))
        own = _values(ds, rows)[:, at >= 0]
        telling = np.asarray([tells(x) for x in own], dtype=np.bool_)
        rows, own = rows[telling], own[telling]
        compared += len(rows)
        if len(rows) < _FEWEST_PAIRS:
            continue
        scale = _moments(_values(ds, spread(every[_contexts(ds, every) == name], _ESTIMATED))[:, at >= 0])
        for group in _by_context(donor, candidates, str(name)):
            found = _pairs(own, scale, _perts(ds, rows), donor, group, at[at >= 0])
            if len(found) and _are_copies(own[found[:, 0]], _values(donor, found[:, 1])[:, at[at >= 0]]):
                same += len(found)
                break
    return compared, same


def _by_context(donor: PerturbDataset, rows: IntArray, first: str) -> Iterator[IntArray]:
    """Yield rows by context, those of a context of that name before all others."""
    of = _contexts(donor, rows)
    names = sorted(set(of), key=lambda c: (c != first, c))
    for name in [*names[:1], *spread(np.asarray(names[1:]), _CONTEXTS - 1)]:
        yield rows[of == name]


def _pairs(
    own: FloatArray,
    scale: tuple[FloatArray, FloatArray],
    perts: StrArray,
    donor: PerturbDataset,
    rows: IntArray,
    columns: IntArray,
) -> IntArray:
    """Return int64 [n, 2], positions in `own` and the donor's row of the same perturbation that is alike.

    Parameters
    ----------
    own, scale, perts
        Test rows of a context, mean and standard deviation of its genes, and their perturbations.
    donor, rows, columns
        The donor, rows of one of its contexts, and its columns that are the genes of `own`.
    """
    mean, std = _moments(_values(donor, spread(rows, _ESTIMATED))[:, columns])
    varies = (std > 0) & (scale[1] > 0)
    if varies.sum() < _FEWEST_GENES:
        return np.empty((0, 2), dtype=np.int64)
    a = _units((own - scale[0])[:, varies] / scale[1][varies])
    best, which = np.full(len(own), _ALIKE), np.full(len(own), -1)
    of = _perts(donor, rows)
    for pert in np.unique(perts):
        at, there = np.flatnonzero(perts == pert), rows[of == pert]
        for start in range(0, len(there), _BLOCK):
            part = there[start : start + _BLOCK]
            b = _units((_values(donor, part)[:, columns] - mean)[:, varies] / std[varies])
            alike = a[at] @ b.T
            higher = alike.max(axis=1) > best[at]
            best[at[higher]] = alike.max(axis=1)[higher]
            which[at[higher]] = part[alike.argmax(axis=1)[higher]]
    paired = np.flatnonzero(which >= 0)
    return np.stack([paired, which[paired]], axis=1)


def _are_copies(own: FloatArray, other: FloatArray) -> bool:
    """Return whether paired rows [n, G] are one measurement: nearly every gene that varies is a multiple and a constant."""
    if len(own) < _FEWEST_PAIRS:
        return False
    forms = [(own, other)]
    if max(own.max(), other.max()) < _LOG1P_CEILING:
        forms.append((np.expm1(own), np.expm1(other)))
    for x, y in forms:
        a, b = x - x.mean(axis=0), y - y.mean(axis=0)
        size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
        varies = size > 0
        r = (a * b).sum(axis=0)[varies] / size[varies]
        if varies.sum() >= _FEWEST_GENES and (r > 1 - _EXACT).mean() >= _NEARLY_ALL:
            return True
    return False


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    return values.mean(axis=0), values.std(axis=0)


def _units(values: FloatArray) -> FloatArray:
    out: FloatArray = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return out


def spread(items: Any, n: int) -> Any:
    """Return at most `n` of an array, evenly spread over it."""
    return items if len(items) <= n else items[np.linspace(0, len(items) - 1, n).astype(np.int64)]


def tells(profile: FloatArray) -> bool:
    """Return whether a row [G] is so particular that no other row is like it by chance."""
    expressed = profile[profile != 0]
    if len(expressed) >= _EXPRESSED:
        return True
    return len(np.unique(np.round(expressed / np.abs(expressed).max(initial=1e-12), 6))) >= _DISTINCT


def _perts(ds: PerturbDataset, rows: IntArray) -> StrArray:
    out: StrArray = ds.obs[schema.PERT_ID].astype(str).to_numpy()[rows]
    return out


def _contexts(ds: PerturbDataset, rows: IntArray) -> StrArray:
    out: StrArray = ds.obs[schema.CONTEXT_ID].astype(str).to_numpy()[rows]
    return out


def _values(ds: PerturbDataset, rows: IntArray) -> FloatArray:
    """Return float64 [n, G], expression or differences as they are stored."""
    if ds.expression is None:
        return np.asarray(ds.delta(rows), dtype=np.float64)
    picked: Any = take_rows(ds.expression, rows)
    return np.asarray(picked.toarray() if sp.issparse(picked) else picked, dtype=np.float64)
