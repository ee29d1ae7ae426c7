"""Arrays of a parity case of the calibrated metrics that follow from its cells: means, weights and controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from perturbfm_core.evaluation.panels.calibrated import expression
from perturbfm_core.evaluation.parity import Record
from perturbfm_core.evaluation.parity_npz import read_arrays
from perturbfm_core.schema import BoolArray, FloatArray, StrArray

# One row for all conditions.
_OF_ALL = ("control", "train_mean")


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
    X: FloatArray, label: StrArray, conditions: list[str], first: BoolArray
) -> expression.Contrast:
    """Return the test of each condition's first half against the others'.

    Parameters
    ----------
    X, label
        All cells [n, G] and the condition of each.
    conditions
        All conditions but the control.
    first
        Cells of the first half [n].
    """
    mean = cell_means(X, label, conditions, first)
    rows = [(label == q) & first for q in conditions]
    squares = np.stack([np.square(X[r] - mean[i]).sum(axis=0) for i, r in enumerate(rows)])
    return expression.against_rest(mean, squares, np.asarray([r.sum() for r in rows]))


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
    """
    theirs = np.atleast_2d(numbers[name])
    atol, rtol = tolerance
    for i, row in enumerate(["all"] if name in _OF_ALL else conditions):
        for j, gene in enumerate(genes):
            expected, ours = float(theirs[i, j]), float(values[i, j])
            yield Record(f"input_{name}", f"{row}|{gene}", expected, ours, float(atol[i, j]), rtol)
