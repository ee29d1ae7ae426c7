"""Counts of predicted cells, as a submission to the Virtual Cell Challenge has them, in the scale of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import as_csr, normalize_log1p
from perturbfm_core.data.prediction_files import PredictionTable
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.panels.cell_eval2.cells import MAX_COUNTS_PER_CELL
from perturbfm_core.evaluation.submitted_cells import FEWEST
from perturbfm_core.schema import IntArray

# Whole numbers up to this can be rounded deltas, where the format does not commonly hold cells.
_ROUNDED = 2


@dataclass(frozen=True, eq=False)
class CountedCells:
    """Predicted cells.

    Attributes
    ----------
    counts
        int32 [n, G], CSR.
    expression
        float32 [n, G], CSR: log1p of the counts scaled to the depth of the data set.
    """

    counts: Any
    expression: Any


def counts_of(ds: PerturbDataset, values: Any, code: IntArray, given: PredictionTable) -> CountedCells | None:
    """Return predicted cells, if a file that does not say what it holds has their counts and so has the data set.

    Parameters
    ----------
    ds
        The data set.
    values
        Predicted rows [n, G], CSR or dense, in the genes of the data set.
    code
        int64 [n], test condition of each row.
    given
        The file.

    Raises
    ------
    PredictionError
        If a cell has more counts than the challenge allows.
    """
    scaled = ds.metadata.normalization
    if ds.metadata.level != "cell" or scaled is None or ds.values.counts is None or not len(code):
        return None
    if np.median(np.bincount(code)[np.unique(code)]) < FEWEST or not _are_counts(values, given.by_convention):
        return None
    counts = as_csr(values)
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1)
    if total.max() > MAX_COUNTS_PER_CELL:
        msg = (
            f"{given.source} has a cell with {total.max():g} counts; at most {MAX_COUNTS_PER_CELL:g} are allowed, "
            "scale it down and round"
        )
        raise PredictionError(msg)
    counts = counts.astype(np.int32)
    return CountedCells(counts, normalize_log1p(counts, scaled.target_sum))


def _are_counts(values: Any, by_convention: bool) -> bool:
    data = values.data if sp.issparse(values) else values
    if not data.size or not np.isfinite(data).all() or float(data.min()) < 0:
        return False
    high = float(data.max())
    return high > (0 if by_convention else _ROUNDED) and bool((data == np.rint(data)).all())


def compare_controls(ds: PerturbDataset, controls: Any, notes: dict[str, Any], warnings: list[str]) -> None:
    """Note how many control cells a file has, and warn of those that the data set did not measure.

    Parameters
    ----------
    ds
        The data set.
    controls
        Counts of the control cells of the file [n, G], in the genes of the data set.
    notes, warnings
        What is said of the file, to which it is added.
    """
    n = int(controls.shape[0])
    if not n:
        return
    rng = np.random.default_rng(0)
    # One whole number per cell, exact whatever the order of genes: cells that differ have another but for chance.
    weights = rng.integers(1, 2**40, size=ds.n_genes, dtype=np.int64)
    counts: Any = ds.values.counts
    measured, times = np.unique(fingerprints(counts[ds.is_control], weights), return_counts=True)
    found, given = np.unique(fingerprints(controls, weights), return_counts=True)
    _, mine, its = np.intersect1d(found, measured, assume_unique=True, return_indices=True)
    same = np.minimum(given[mine], times[its])
    other = n - int(same.sum())
    if other:
        notes["control_rows_not_measured"] = other
        warnings.append(
            f"{other} of {n} control cells of the file are not measured ones of the data set; effects are differences to "
            "the measured controls, whatever the file has"
        )


def fingerprints(cells: Any, weights: IntArray) -> Any:
    """Return int64 [n], a number for each cell of counts that cells which differ share only by chance.

    Parameters
    ----------
    cells
        Counts, CSR [n, G].
    weights
        Whole numbers, drawn at random [G].
    """
    whole = as_csr(cells).astype(np.int64)
    return np.asarray(whole @ weights)
