"""Arrays of a parity case of the calibrated metrics that follow from its cells: means, weights and controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.stats import ttest_ind_from_stats

from perturbfm_core.evaluation.panels.calibrated import expression
from perturbfm_core.evaluation.parity import ILL_CONDITIONED, Record, not_compared
from perturbfm_core.evaluation.parity_npz import read_arrays
from perturbfm_core.schema import BoolArray, FloatArray, StrArray

# Variances below these shares of the squared mean, in units of the precision, are taken by the peer's arithmetic, and are
# all rounding.
_UNSURE, _FLAT = 1e6, 1e4
_TINY = np.finfo(np.float64).tiny
# One row for all conditions.
_OF_ALL = ("control", "train_mean")
_ROUNDING_DECIDES = (
    f"{ILL_CONDITIONED}: the variance of a gene that does not vary is the peer's rounding error"
)


def read_numbers(path: Path, genes: list[str]) -> tuple[list[str], dict[str, FloatArray]]:
    """Return (conditions, arrays by name), their last axis in the order of `genes`.

    Parameters
    ----------
    path
        The npz file. Without names of genes in it they are in order already.
    genes
        Genes of the cells.
    """
    arrays = read_arrays(path)
    conditions = [str(q) for q in arrays.pop("conditions")]
    names = [str(g) for g in arrays.pop("genes", genes)]
    if names == genes:
        return conditions, arrays
    order = [names.index(g) for g in genes]
    return conditions, {
        name: values[..., order] if values.shape[-1:] == (len(names),) else values
        for name, values in arrays.items()
    }


def cell_means(X: FloatArray, label: StrArray, conditions: list[str], of: BoolArray) -> FloatArray:
    """Return [C, G], the means of some cells of each condition; NaN where a condition has none of them.

    Parameters
    ----------
    X, label
        All cells [n, G] and the condition of each.
    conditions
        The conditions.
    of
        Cells that count [n].
    """
    rows = [(label == q) & of for q in conditions]
    return np.stack([X[r].mean(axis=0) if r.any() else np.full(X.shape[1], np.nan) for r in rows])


def half_contrast(
    X: FloatArray, label: StrArray, conditions: list[str], first: BoolArray, stored: Any
) -> tuple[expression.Contrast, BoolArray]:
    """Return (the test of each condition's first half against the others', where rounding decides the peer's).

    The peer has a variance as the mean of squares less the squared mean. Of a gene that hardly varies its rounding is left,
    which may be negative (and t undefined, taken as 0); there t and p are by the peer's arithmetic.

    Parameters
    ----------
    X, label
        All cells [n, G] and the condition of each.
    conditions
        All conditions but the control.
    first
        Cells of the first half [n].
    stored
        The cells as they are in the file.
    """
    mean = cell_means(X, label, conditions, first)
    rows = [(label == q) & first for q in conditions]
    squares = np.stack([np.square(X[r] - mean[i]).sum(axis=0) for i, r in enumerate(rows)])
    n = np.asarray([r.sum() for r in rows])
    found = expression.against_rest(mean, squares, n)
    # The peer squares values in their own precision, but for a matrix stored by gene.
    squared: np.ndarray = np.asarray(stored.toarray() if sp.issparse(stored) else stored)
    squared = X if sp.issparse(stored) and stored.format == "csc" else squared
    precision = np.finfo(squared.dtype if squared.dtype.kind == "f" else np.float64).eps
    t, p, doubt = found.t.copy(), found.p.copy(), np.zeros(mean.shape, dtype=np.bool_)
    every = np.any([rows[i] for i in np.flatnonzero(found.tested)], axis=0)
    for i in np.flatnonzero(found.tested):
        sides = [_moments(X[r], squared[r]) for r in (rows[i], every & ~rows[i])]
        (m, v), (m_rest, v_rest) = sides
        with np.errstate(divide="ignore", invalid="ignore"):
            welch = ttest_ind_from_stats(m, np.sqrt(v), n[i], m_rest, np.sqrt(v_rest), n[i], equal_var=False)
        ratio = np.minimum(*(np.abs(var) / np.maximum(mu**2, _TINY) for mu, var in sides))
        flat = (ratio <= _UNSURE * precision) & ~((m == 0) & (m_rest == 0))
        t[i, flat] = np.nan_to_num(welch.statistic, nan=0.0, posinf=np.inf, neginf=-np.inf)[flat]
        p[i, flat] = np.nan_to_num(welch.pvalue, nan=1.0)[flat]
        for mu, var in sides:
            # The sums of a few binary digits are exact.
            doubt[i] |= (np.abs(var) <= _FLAT * precision * mu**2) & (np.modf(mu * 256)[0] != 0)
    return expression.Contrast(t, p, found.tested), doubt


def _moments(X: FloatArray, squared: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Return (mean, variance) of cells [n, G] by the peer's arithmetic, of which `squared` are the values to square."""
    n = len(X)
    mean = X.mean(axis=0)
    return mean, ((squared * squared).mean(axis=0, dtype=np.float64) - mean**2) * (n / (n - 1))


def largest_by_name(weights: FloatArray, genes: list[str]) -> FloatArray:
    """Return weights [C, G] in which a gene that is listed twice has its larger one in both places."""
    _, codes = np.unique(genes, return_inverse=True)
    largest = np.zeros((len(weights), int(codes.max()) + 1))
    for j, code in enumerate(codes):
        largest[:, code] = np.maximum(largest[:, code], weights[:, j])
    return largest[:, codes]


def array_records(
    name: str,
    values: FloatArray,
    numbers: Mapping[str, FloatArray],
    conditions: list[str],
    genes: list[str],
    tolerance: tuple[FloatArray, float],
    doubt: BoolArray,
) -> Iterator[Record]:
    """Yield the records of one array of the case.

    Parameters
    ----------
    name, values
        Its name, and what it is by the cells [C or 1, G].
    numbers
        The arrays of the case.
    conditions, genes
        Names of rows and columns.
    tolerance
        (absolute [C or 1, G], relative).
    doubt
        Numbers that are not compared where they differ [C or 1, G], as rounding decides the peer's.
    """
    theirs = np.atleast_2d(numbers[name])
    atol, rtol = tolerance
    for i, row in enumerate(["all"] if name in _OF_ALL else conditions):
        for j, gene in enumerate(genes):
            expected, ours, key = float(theirs[i, j]), float(values[i, j]), f"{row}|{gene}"
            record = Record(f"input_{name}", key, expected, ours, float(atol[i, j]), rtol)
            if doubt[i, j] and not record.ok:
                record = not_compared(record.metric, key, _ROUNDING_DECIDES)
            yield record
