"""Two tables of differential expression, of truth and prediction, aligned by perturbation and gene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perturbfm_core.evaluation.panels.cell_eval2.differential import DifferentialExpression
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Perturbations with fewer significant genes in the truth have no value of what is gated by them.
MIN_GATE = 10


@dataclass(frozen=True, eq=False)
class TablePair:
    """Tables of truth and prediction.

    Attributes
    ----------
    real, pred
        The tables, with the same perturbations [P] and genes [G].
    target
        int64 [P], column of the target gene, -1 without one.
    """

    real: DifferentialExpression
    pred: DifferentialExpression
    target: IntArray

    @cached_property
    def off_target(self) -> BoolArray:
        """Return bool [P, G], False for the target gene of each perturbation."""
        out = np.ones(self.real.p.shape, dtype=np.bool_)
        rows = np.flatnonzero(self.target >= 0)
        out[rows, self.target[rows]] = False
        return out

    @cached_property
    def both(self) -> BoolArray:
        """Return bool [G], genes that are in both tables."""
        return np.asarray(self.real.tested & self.pred.tested)

    @cached_property
    def n_universe(self) -> int:
        """Return the number of genes that are in either table."""
        return int((self.real.tested | self.pred.tested).sum())

    @cached_property
    def n_real(self) -> IntArray:
        """Return int64 [P], number of significant genes of the truth."""
        return np.asarray(self.real.significant.sum(axis=1))

    @cached_property
    def n_pred(self) -> IntArray:
        """Return int64 [P], number of significant genes of the prediction."""
        return np.asarray(self.pred.significant.sum(axis=1))

    @cached_property
    def n_common(self) -> IntArray:
        """Return int64 [P], number of genes that are significant in both."""
        return np.asarray((self.real.significant & self.pred.significant).sum(axis=1))

    @cached_property
    def same_sign(self) -> BoolArray:
        """Return bool [P, G], whether both fold changes have one sign, 0 being a sign of its own."""
        return np.asarray(np.sign(self.real.lfc) == np.sign(self.pred.lfc))

    @cached_property
    def predicted_lfc(self) -> FloatArray:
        """Return float64 [P, G], the predicted fold change, 0 for genes that its table lacks."""
        return np.where(self.pred.tested, self.pred.lfc, 0.0)

    @cached_property
    def enough(self) -> BoolArray:
        """Return bool [P], whether the truth has at least 10 significant genes."""
        return np.asarray(self.n_real >= MIN_GATE)


def gated(value: FloatArray, inside: BoolArray) -> FloatArray:
    """Return values [P], NaN for perturbations outside a gate of the truth alone."""
    return np.where(inside, value, np.nan)


def share(part: IntArray, whole: IntArray, empty: float = np.nan) -> FloatArray:
    """Return part / whole [P], `empty` where the whole is 0.

    Parameters
    ----------
    part, whole
        Counts [P].
    empty
        Value of 0 / 0.
    """
    part = np.asarray(part, dtype=np.float64)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, empty), where=np.asarray(whole) != 0))
