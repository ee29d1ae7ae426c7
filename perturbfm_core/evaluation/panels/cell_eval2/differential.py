"""Differential expression of labelled cells against controls: Wilcoxon, Benjamini-Hochberg, fold changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.differential.comparison import (
    ALPHA,
    PER_MILLION,
    DifferentialTest,
    gene_statistics,
)
from perturbfm_core.evaluation.differential.ordering import count_codes
from perturbfm_core.evaluation.differential.stacks import Form, GeneStack, compare_stacks, gene_chunks
from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray

# Bytes of values that are kept by gene at once.
_BUDGET = 1 << 29


@dataclass(frozen=True, eq=False)
class ControlReference:
    """Control cells, prepared once for all comparisons with them.

    Attributes
    ----------
    X
        CSR [n, G], their values.
    depth
        float64 [n], divisor of each cell's counts; 1 for log1p values.
    mean
        float64 [G], mean in linear scale.
    tested
        bool [G], genes that pass the gate.
    test
        How groups are compared.
    whole
        Whether every value is a whole number.
    origin
        The cells that they are a part of.
    """

    X: Any
    depth: FloatArray
    mean: FloatArray
    tested: BoolArray
    test: DifferentialTest
    whole: bool
    origin: LabelledCells


def control_reference(cells: LabelledCells, test: DifferentialTest | None = None) -> ControlReference:
    """Return the control cells of one side ready for `differential_expression`."""
    test = test or DifferentialTest()
    control = cells.of_group(cells.control)
    depth = _depth(cells, test)[cells.rows[cells.control]]
    arithmetic = _mean(cells.input_type, control, depth, "arithmetic")
    tested = np.ones(control.shape[1], dtype=np.bool_)
    if test.min_control_cpm is not None and cells.input_type == "counts":
        tested = arithmetic * (PER_MILLION / test.target_sum) > test.min_control_cpm
    mean = arithmetic
    if test.mean == "geometric":
        mean = _mean(cells.input_type, control, depth, "geometric")
    return ControlReference(control, depth, mean, tested, test, cells.whole, cells.origin or cells)


def _depth(cells: LabelledCells, test: DifferentialTest) -> FloatArray:
    """Return float64 [N], what counts are divided by, as scanpy does; equal values stay equal."""
    if cells.input_type == "lognorm":
        return np.ones(len(cells.totals))
    depth = cells.totals / test.target_sum
    return np.where(depth == 0, 1.0, depth)


def _mean(input_type: str, X: Any, depth: FloatArray, kind: str) -> FloatArray:
    """Return the mean of each gene [G] over some cells [n, G]."""
    values = _linear(input_type, X, depth)
    if kind == "geometric":
        values = np.log1p(values)
    # Multiplied before they are added, cell after cell, as a mean of a sparse matrix is: the last digit of a mean
    # decides the sign of a fold change where a prediction repeats the controls.
    values *= 1.0 / max(X.shape[0], 1)
    by_gene = sp.csc_array((values, X.indices, X.indptr), shape=X.shape[::-1])
    total = np.asarray(by_gene @ np.ones(X.shape[0]))
    return np.asarray(np.expm1(total) if kind == "geometric" else total)


def _linear(input_type: str, X: Any, depth: FloatArray) -> FloatArray:
    """Return the stored values of some cells [n, G] in linear scale."""
    if input_type == "lognorm":
        return np.asarray(np.expm1(X.data), dtype=np.float64)
    divisor = np.repeat(depth, np.diff(X.indptr))
    return np.asarray(np.divide(X.data, divisor, out=divisor))


@dataclass(frozen=True, eq=False)
class DifferentialExpression:
    """One row per perturbation, one column per gene; genes that are not tested have p and adjusted p NaN.

    Attributes
    ----------
    names
        str [P].
    genes
        str [G].
    tested
        bool [G], genes that pass the gate.
    score
        float64 [P, G], standard normal score of the rank sum.
    p, p_adj
        float64 [P, G], two-sided p-values, and these adjusted over the tested genes of each perturbation.
    lfc
        float64 [P, G], log2 fold change of the means.
    """

    names: StrArray
    genes: StrArray
    tested: BoolArray
    score: FloatArray
    p: FloatArray
    p_adj: FloatArray
    lfc: FloatArray

    @cached_property
    def significant(self) -> BoolArray:
        """Return bool [P, G], whether the adjusted p-value is below 0.05."""
        return np.asarray(np.nan_to_num(self.p_adj, nan=1.0) < ALPHA)

    @cached_property
    def rank(self) -> IntArray:
        """Return int64 [P, G]: place of each significant gene by falling size of fold change, G for others.

        Ties go to the larger score, as in the order in which scanpy lists genes.
        """
        size = np.where(self.significant, -np.abs(self.lfc), np.inf)
        order = np.lexsort((-self.score, size), axis=1)
        place = np.empty_like(order)
        np.put_along_axis(place, order, np.arange(order.shape[1])[None, :], axis=1)
        return np.where(self.significant, place, order.shape[1])

    @cached_property
    def order(self) -> IntArray:
        """Return int64 [P, G]: genes from the most to the least significant, those not tested last.

        Ties of the adjusted p-value go by p-value, then size of fold change, then gene name.
        """
        name = np.argsort(np.argsort(self.genes, kind="stable"), kind="stable")
        size = np.nan_to_num(np.abs(self.lfc), nan=-np.inf, posinf=np.inf)
        last = np.where(self.tested, 0, 1)
        shape = self.p.shape
        keys = (
            np.broadcast_to(name, shape),
            -size,
            np.nan_to_num(self.p, nan=np.inf),
            np.nan_to_num(self.p_adj, nan=np.inf),
            ~self.significant,
            np.broadcast_to(last, shape),
        )
        return np.asarray(np.lexsort(keys, axis=1))


def differential_expression(cells: LabelledCells, reference: ControlReference) -> DifferentialExpression:
    """Return the comparison of every perturbation with the control reference; NaN for genes that are not tested."""
    tested, test = reference.tested, reference.test
    depth, n_controls = _depth(cells, test), reference.X.shape[0]
    sizes = cells.sizes[cells.perturbed]
    shape = len(sizes), cells.X.shape[1]
    mean, twice, ties = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    comparable = _Comparable.of(cells, reference, depth)
    chunks = list(gene_chunks(tested, cells.X.nnz, comparable.item_bytes, _BUDGET))
    for chunk in chunks:
        control, groups = (GeneStack(chunk.stop - chunk.start) for _ in range(2))
        control.add_group(comparable.control(chunk))
        for i, k in enumerate(cells.perturbed):
            group, divisor = cells.of_group(int(k)), depth[cells.rows[k]]
            if chunk is chunks[0]:
                mean[i] = _mean(cells.input_type, group, divisor, test.mean)
            groups.add_group(comparable.group(group, divisor, chunk))
        twice[:, chunk], ties[:, chunk] = compare_stacks(
            control, groups, sizes, n_controls, tested[chunk], comparable.form
        )
    found = gene_statistics((twice, ties), (sizes, n_controls), (mean, reference.mean), test, tested)
    return DifferentialExpression(
        cells.perturbations, cells.genes, tested, found.score, found.p, found.p_adj, found.lfc
    )


@dataclass(frozen=True, eq=False)
class _Comparable:
    """Values of groups and controls in a form that orders them.

    Attributes
    ----------
    form
        See `compare_stacks`.
    value
        (some cells [n, G], divisor of each) -> their values.
    reference
        The controls.
    """

    form: Form
    value: Callable[[Any, FloatArray], Any]
    reference: ControlReference

    @classmethod
    def of(cls, cells: LabelledCells, reference: ControlReference, depth: FloatArray) -> _Comparable:
        """Return codes of whole counts, other counts per depth, and log1p values as they are."""
        if cells.input_type == "lognorm":
            double = any(X.dtype != np.float32 for X in (cells.X, reference.X))
            return cls("merged" if double else "values", partial(_stored, double=double), reference)
        if not (cells.whole and reference.whole):
            return cls("merged", partial(_linear, "counts"), reference)
        origin, scale = cells.origin or cells, reference.test.target_sum
        if origin is not reference.origin:
            codes = count_codes([(cells.X, depth), (reference.X, reference.depth)])
        else:
            codes = origin.all_codes.get(scale) or count_codes([(origin.X, _depth(origin, reference.test))])
            origin.all_codes[scale] = codes

        def value(X: Any, divisor: FloatArray) -> Any:
            return codes.of(X.data, np.repeat(codes.places(divisor), np.diff(X.indptr)))

        return cls("codes", value, reference)

    @property
    def item_bytes(self) -> int:
        """Return the bytes of a value."""
        return 8 if self.form == "merged" else 4

    def control(self, genes: slice) -> Any:
        """Return CSR [n, genes], the controls."""
        return self.group(self.reference.X, self.reference.depth, genes)

    def group(self, X: Any, divisor: FloatArray, genes: slice) -> Any:
        """Return CSR [n, genes], the cells of one group.

        Parameters
        ----------
        X
            Its cells, CSR [n, G].
        divisor
            Divisor of each cell's counts [n].
        genes
            Range of genes.
        """
        if genes.stop - genes.start < X.shape[1]:
            X = X[:, genes]
        return sp.csr_array((self.value(X, divisor), X.indices, X.indptr), shape=X.shape)


def _stored(X: Any, _: FloatArray, *, double: bool) -> Any:
    return X.data.astype(np.float64 if double else np.float32, copy=False)
