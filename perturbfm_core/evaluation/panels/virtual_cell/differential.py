"""Differential expression of each perturbation against the controls, as in cell-eval 0.8.2."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.differential.comparison import (
    ALPHA,
    DifferentialTest,
    gene_statistics,
    log2_fold_change,
)
from perturbfm_core.evaluation.differential.stacks import GeneStack, compare_stacks
from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups, column_sums
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Values of groups that are compared with the controls at once; the controls are sorted anew each time.
_BLOCK_VALUES = 24_000_000
# What cell-eval 0.8.2 does: geometric means as they are, every gene, a correction for continuity.
TEST = DifferentialTest("geometric", 0.0, None, continuity=True, absent_change=0.0)


@dataclass(frozen=True, eq=False)
class DifferentialExpression:
    """One row per perturbation, one column per gene.

    Attributes
    ----------
    statistic
        float64 [P, G], Mann-Whitney U of the perturbed cells over the controls.
    p, fdr
        float64 [P, G], two-sided p-values, and these adjusted over the genes of each perturbation.
    lfc
        float64 [P, G], log2 ratio of the geometric means of expression + 1, each less 1; infinite where a
        gene is absent on one side, 0 where on both.
    target_mean, control_mean
        float64 [P, G] and [G], those geometric means less 1.
    mean
        float64 [P, G], mean log1p expression.
    ties_in_order
        Whether equal fold changes rank in the order of genes, as in cell-eval, instead of sharing their places.
    """

    statistic: FloatArray
    p: FloatArray
    fdr: FloatArray
    lfc: FloatArray
    target_mean: FloatArray
    control_mean: FloatArray
    mean: FloatArray
    ties_in_order: bool = False

    def take(self, rows: IntArray) -> DifferentialExpression:
        """Return the comparison of these rows, of which some may be the same."""
        both = {
            name: getattr(self, name)[rows]
            for name in ("statistic", "p", "fdr", "lfc", "target_mean", "mean")
        }
        return replace(self, **both)

    @cached_property
    def fdr32(self) -> FloatArray:
        """Return the adjusted p-values in single precision, in which they are compared with thresholds."""
        return self.fdr.astype(np.float32)

    @cached_property
    def lfc32(self) -> FloatArray:
        """Return the fold changes in single precision, in which they are sorted."""
        return self.lfc.astype(np.float32)

    @cached_property
    def significant(self) -> BoolArray:
        """Return bool [P, G], whether the adjusted p-value is below 0.05."""
        return np.asarray(self.fdr32 < ALPHA)

    @cached_property
    def change_size(self) -> FloatArray:
        """Return float64 [P, G]: size of the fold change of significant genes, larger than 0, and 0 of others."""
        size = np.maximum(np.abs(self.lfc32).astype(np.float64), np.finfo(np.float32).tiny)
        return np.where(self.significant, size, 0.0)

    @cached_property
    def rank(self) -> IntArray:
        """Return int64 [P, G]: place of each significant gene by falling size of fold change, G for others.

        Ties keep the order of the genes.
        """
        key = np.where(self.significant, -np.abs(self.lfc32), np.inf)
        key[self.significant & np.isneginf(key)] = np.finfo(np.float32).min
        order = np.argsort(key, axis=1, kind="stable")
        place = np.empty_like(order)
        np.put_along_axis(place, order, np.arange(order.shape[1])[None, :], axis=1)
        return np.where(self.significant, place, order.shape[1])


@dataclass(frozen=True, eq=False)
class Controls:
    """Control cells, prepared once for all comparisons with them.

    Attributes
    ----------
    n
        Number of cells.
    mean
        float64 [G], mean log1p expression.
    values
        Their values by gene, in single precision.
    """

    n: int
    mean: FloatArray
    values: GeneStack


def prepare_controls(X: Any) -> Controls:
    """Return the control cells [n, G] (CSR or dense, log1p) ready for `differential_expression`."""
    values = GeneStack(X.shape[1])
    values.add_group(_single(X))
    return Controls(X.shape[0], column_sums(X) / X.shape[0], values)


def differential_expression(groups: CellGroups, controls: Controls) -> DifferentialExpression:
    """Return the comparison of every group with the controls: Mann-Whitney U, Benjamini-Hochberg, fold change."""
    shape = len(groups), groups.n_genes
    mean, twice, ties = (np.empty(shape) for _ in range(3))
    everything = np.ones(groups.n_genes, dtype=np.bool_)
    values, stored = GeneStack(groups.n_genes), 0
    for i in range(len(groups)):
        X = groups.get(i)
        mean[i] = column_sums(X) / X.shape[0]
        cells = _single(X)
        values.add_group(cells)
        stored += cells.nnz
        if stored > _BLOCK_VALUES or i == len(groups) - 1:
            block = slice(i + 1 - values.n_groups, i + 1)
            twice[block], ties[block] = compare_stacks(
                controls.values, values, groups.sizes[block], controls.n, everything, "values"
            )
            values, stored = GeneStack(groups.n_genes), 0
    target, control = np.expm1(mean), np.expm1(controls.mean)
    found = gene_statistics((twice, ties), (groups.sizes, controls.n), (target, control), TEST)
    return DifferentialExpression(0.5 * twice, found.p, found.p_adj, found.lfc, target, control, mean)


def _single(X: Any) -> Any:
    """Return cells [n, G] as CSR in single precision, without zeros."""
    if not sp.issparse(X):
        cells = np.ascontiguousarray(X, dtype=np.float32)
        stored = cells != 0
        place = np.flatnonzero(stored)
        ends = np.cumsum(np.count_nonzero(stored, axis=1))
        index = np.int32 if cells.size < 1 << 31 else np.int64
        columns, starts = (place % cells.shape[1]).astype(index), np.concatenate([[0], ends]).astype(index)
        return sp.csr_array((cells.ravel()[place], columns, starts), shape=cells.shape)
    rows = sp.csr_array(X).astype(np.float32, copy=False)
    if len(rows.data) and not rows.data.all():
        # A copy: the cells may belong to the data set.
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows


def log2_ratio(target: FloatArray, control: FloatArray) -> FloatArray:
    """Return log2(target / control), 0 where both are 0 and infinite where only one is."""
    ratio = log2_fold_change(target, control, TEST.epsilon)
    return np.where((target == 0) & (control == 0), TEST.absent_change, ratio)


def single_precision_means(groups: CellGroups, controls: Any) -> tuple[FloatArray, FloatArray]:
    """Return (`target_mean`, `control_mean`) in the precision of the cells, as in cell-eval.

    Its fold changes differ by about 1e-6 from those of double precision, and the order of their sizes with them.
    """

    def geometric(X: Any) -> FloatArray:
        return np.asarray(np.expm1(np.asarray(X.mean(axis=0)).ravel()), dtype=np.float64)

    return np.stack([geometric(groups.get(i)) for i in range(len(groups))]), geometric(controls)
