"""Two fixed halves of each condition's cells, and differential expression of the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perturbfm_core.evaluation.cells import Cells
from perturbfm_core.evaluation.panels.calibrated import calibration, expression
from perturbfm_core.schema import BoolArray, FloatArray, StrArray


@dataclass(frozen=True, eq=False)
class Halves:
    """Statistics of the two halves of each condition's cells.

    Attributes
    ----------
    truth, duplicate
        float64 [C, G], mean of the first and second half minus the condition's control; NaN for an empty half.
    weights, p
        float64 [C, G], gene weights and p-values of the first half against the rest of its context.
    degs
        bool [C, G], differentially expressed genes of the first half.
    """

    truth: FloatArray
    duplicate: FloatArray
    weights: FloatArray
    p: FloatArray
    degs: BoolArray


def halves_of(cells: Cells, control: FloatArray, contexts: np.ndarray, genes: StrArray) -> Halves:
    """Return the halves of the cells of every condition.

    Parameters
    ----------
    cells
        Observed cells.
    control
        Control mean of each condition [C, G], log1p units.
    contexts
        Context of each condition [C].
    genes
        Gene names [G].
    """
    shape = control.shape
    # The halves follow from the cells by gene name, whatever the order of columns.
    by_name = np.argsort(genes, kind="stable")
    mean, squares, duplicate = np.empty(shape), np.empty(shape), np.full(shape, np.nan)
    n = np.empty(shape[0], dtype=np.int64)
    for i in range(shape[0]):
        X = cells.truth(i)
        first = calibration.first_half(row.tobytes() for row in X[:, by_name])
        A, B = X[first].astype(np.float64), X[~first]
        n[i] = len(A)
        mean[i] = A.mean(axis=0)
        A -= mean[i]
        squares[i] = np.einsum("ij,ij->j", A, A)
        if len(B):
            duplicate[i] = B.mean(axis=0, dtype=np.float64)
    weights, p, degs = np.zeros(shape), np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
    for context in np.unique(contexts):
        rows = np.flatnonzero(contexts == context)
        contrast = expression.against_rest(mean[rows], squares[rows], n[rows])
        weights[rows] = expression.gene_weights(contrast)
        p[rows], degs[rows] = contrast.p, expression.significant(contrast)
    return Halves(mean - control, duplicate - control, weights, p, degs)
