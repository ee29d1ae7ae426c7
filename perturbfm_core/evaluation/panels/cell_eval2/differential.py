"""Differential expression of groups of cells against controls: Wilcoxon, Benjamini-Hochberg, fold changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.cell_eval2.cells import LabelledCells
from perturbfm_core.evaluation.panels.cell_eval2.ordering import depth_table, value_codes
from perturbfm_core.evaluation.panels.cell_eval2.ranksum import (
    group_bits,
    normal_scores,
    rank_sums,
    two_sided_p,
)
from perturbfm_core.schema import BoolArray, FloatArray, IntArray, StrArray

ALPHA = 0.05
PER_MILLION = 1e6


@dataclass(frozen=True)
class DifferentialTest:
    """What differs between peers that compare groups of cells with controls.

    Attributes
    ----------
    mean
        ``arithmetic``, or ``geometric`` for means of log1p values.
    epsilon
        Added to both means of a fold change.
    min_control_cpm
        Genes are tested whose mean per million in the controls is larger; None: all. For counts only.
    target_sum
        Depth to which counts are scaled.
    """

    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    epsilon: float = 1e-9
    min_control_cpm: float | None = 5.0
    target_sum: float = PER_MILLION


@dataclass(frozen=True, eq=False)
class ControlReference:
    """Control cells, prepared once for all comparisons with them.

    Attributes
    ----------
    X
        CSC [n, G], their values.
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
    largest
        float64 [G], largest value of each gene.
    """

    X: Any
    depth: FloatArray
    mean: FloatArray
    tested: BoolArray
    test: DifferentialTest
    whole: bool
    largest: FloatArray


def control_reference(cells: LabelledCells, test: DifferentialTest | None = None) -> ControlReference:
    """Return the control cells of one side ready for `differential_expression`."""
    test = test or DifferentialTest()
    rows = cells.rows[cells.control]
    control = sp.csc_array(cells.X[rows])
    depth = _depth(cells, test)[rows]
    everything = np.ones(control.shape[1], dtype=np.bool_)
    slots = np.zeros(len(rows), dtype=np.int64)
    arithmetic = _means(cells.input_type, control, depth, slots, 1, everything, "arithmetic")[0]
    tested = everything
    if test.min_control_cpm is not None and cells.input_type == "counts":
        tested = arithmetic * (PER_MILLION / test.target_sum) > test.min_control_cpm
    mean = arithmetic
    if test.mean == "geometric":
        mean = _means(cells.input_type, control, depth, slots, 1, everything, "geometric")[0]
    part = replace(cells, X=control, group=slots, totals=cells.totals[rows])
    return ControlReference(control, depth, mean, tested, test, part.whole, part.largest)


def _depth(cells: LabelledCells, test: DifferentialTest) -> FloatArray:
    """Return float64 [N], what counts are divided by, as scanpy does; equal values stay equal."""
    if cells.input_type == "lognorm":
        return np.ones(len(cells.totals))
    depth = cells.totals / test.target_sum
    return np.where(depth == 0, 1.0, depth)


def _means(
    input_type: str, X: Any, depth: FloatArray, slots: IntArray, K: int, genes: BoolArray, kind: str
) -> FloatArray:
    """Return the mean of each group 0 to K - 1 [K, G], 0 for genes left out."""
    share = 1.0 / np.maximum(np.bincount(slots, minlength=K)[:K], 1)
    out = np.zeros((K, X.shape[1]))
    for g in np.flatnonzero(genes):
        part = slice(X.indptr[g], X.indptr[g + 1])
        rows = X.indices[part].astype(np.intp)
        slot = slots[rows]
        values = _linear(input_type, X.data[part], depth, rows)
        if kind == "geometric":
            values = np.log1p(values)
        out[:, g] = np.bincount(slot, weights=values * share[slot], minlength=K)[:K]
    return np.expm1(out) if kind == "geometric" else out


def _linear(input_type: str, values: FloatArray, depth: FloatArray, rows: IntArray) -> FloatArray:
    """Return stored values of one gene in linear scale."""
    if input_type == "lognorm":
        return np.asarray(np.expm1(values), dtype=np.float64)
    return np.asarray(values / depth[rows])


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
    sizes = cells.sizes[cells.perturbed]
    P = len(sizes)
    # Groups 1 to P in the order of the perturbations; controls and cells left out come last, of no account.
    number = np.full(len(cells.names) + 1, P + 1)
    number[cells.perturbed + 1] = np.arange(1, P + 1)
    slots = number[cells.group + 1]
    keys = _GeneKeys(cells, reference, slots, _depth(cells, test))
    shape = P, cells.X.shape[1]
    mean, twice, ties = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for g in np.flatnonzero(tested):
        ordered, present, mean[:, g] = keys.of(int(g))
        twice[:, g], ties[:, g] = rank_sums(ordered, present, sizes, reference.X.shape[0])
    if test.mean == "geometric":
        mean = np.expm1(mean)
    score = np.where(tested, normal_scores(twice, ties, sizes, reference.X.shape[0]), 0.0)
    p = np.where(tested, two_sided_p(score), np.nan)
    lfc = np.where(tested, log2_fold_change(mean, reference.mean, test.epsilon), np.nan)
    p_adj = np.full_like(p, np.nan)
    p_adj[:, tested] = adjusted(p[:, tested])
    # A fold change that is undefined is never significant.
    p_adj = np.where(np.isnan(lfc) & tested, 1.0, p_adj)
    return DifferentialExpression(cells.perturbations, cells.genes, tested, score, p, p_adj, lfc)


class _GeneKeys:
    """Sorted keys of one gene after another, and the means of its values."""

    def __init__(
        self, cells: LabelledCells, reference: ControlReference, slots: IntArray, depth: FloatArray
    ) -> None:
        self.cells, self.reference, self.slots, self.depth = cells, reference, slots, depth
        self.P = len(cells.names) - 1
        self.share = 1.0 / np.maximum(np.bincount(slots, minlength=self.P + 2), 1)
        self.bits = group_bits(self.P + 1)
        # Many cells of no account are dropped before the rest is sorted; a few are sorted with it.
        self.dropping = bool((slots > self.P).mean() > 0.3)
        self.counts = cells.input_type == "counts" and cells.whole and reference.whole
        self.largest = np.maximum(cells.largest, reference.largest)
        if self.counts:
            depths, place = np.unique(np.concatenate([reference.depth, depth]), return_inverse=True)
            self.table = depth_table(depths, int(self.largest.max(initial=0.0)))
            n = len(reference.depth)
            self.places = place[:n], place[n:]
            highest = int(self.table.codes.max(initial=0))
            self.dtype = np.uint32 if (highest + 1) << self.bits < 1 << 32 else np.uint64

    def of(self, g: int) -> tuple[Any, IntArray, FloatArray]:
        """Return (sorted keys, number of values of each group [P], mean of each group [P]) of one gene."""
        X, C = self.cells.X, self.reference.X
        part, other = slice(X.indptr[g], X.indptr[g + 1]), slice(C.indptr[g], C.indptr[g + 1])
        rows, values = X.indices[part].astype(np.intp), X.data[part]
        slot = self.slots[rows]
        if self.dropping:
            used = slot <= self.P
            rows, values, slot = rows[used], values[used], slot[used]
        linear = _linear(self.cells.input_type, values, self.depth, rows)
        weights = np.log1p(linear) if self.reference.test.mean == "geometric" else linear
        summed = np.bincount(slot, weights=weights * self.share[slot], minlength=self.P + 2)
        means = np.asarray(summed[1:-1], dtype=np.float64)
        present = np.bincount(slot, minlength=self.P + 2)[1:-1]
        if self.counts and self.largest[g] <= self.table.largest:
            codes = (
                self._listed(values, self.places[1][rows]),
                self._listed(C.data[other], self.places[0][C.indices[other]]),
            )
            keys = np.concatenate([codes[1] << self.bits, (codes[0] << self.bits) | slot.astype(self.dtype)])
        else:
            keys = self._unlisted(values, linear, slot, C.data[other], C.indices[other])
        keys.sort()
        return keys, present, means

    def _listed(self, values: FloatArray, place: IntArray) -> Any:
        """Return the codes of counts that the table lists."""
        index = values.astype(np.intp) * self.table.n_depths + place
        return self.table.codes[index].astype(self.dtype, copy=False)

    def _unlisted(
        self, values: FloatArray, linear: FloatArray, slot: IntArray, control: FloatArray, rows: IntArray
    ) -> Any:
        """Return keys of values of any kind."""
        if self.cells.input_type == "counts":
            both = np.concatenate([control / self.reference.depth[rows], linear])
        else:
            both = np.concatenate([control, values])
        codes = value_codes(both, merge=self.cells.input_type == "counts").astype(np.uint64)
        group = np.concatenate([np.zeros(len(control), dtype=np.uint64), slot.astype(np.uint64)])
        return (codes << np.uint64(self.bits)) | group


def adjusted(p: FloatArray) -> FloatArray:
    """Return Benjamini-Hochberg adjusted p-values [P, G], each row by itself."""
    G = p.shape[1]
    order = np.argsort(p, axis=1)
    scaled_p = np.take_along_axis(p, order, axis=1) * (G / np.arange(1, G + 1))
    scaled_p = np.minimum.accumulate(scaled_p[:, ::-1], axis=1)[:, ::-1]
    out = np.empty_like(p)
    np.put_along_axis(out, order, np.clip(scaled_p, 0.0, 1.0), axis=1)
    return out


def log2_fold_change(mean: FloatArray, control: FloatArray, epsilon: float) -> FloatArray:
    """Return log2((mean + epsilon) / (control + epsilon)) [P, G].

    Parameters
    ----------
    mean
        Means of the groups [P, G].
    control
        Means of the controls [G].
    epsilon
        Added to both.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log2((mean + epsilon) / (control + epsilon)))
