"""Values of groups of cells gene after gene, and rank sums of all genes from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from perturbfm_core.evaluation.differential.ordering import dense_codes, ordered_bits, value_codes
from perturbfm_core.evaluation.differential.ranksum import GeneValues, rank_sums
from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# What values are: codes in their order, single-precision values, or values of which those with one log1p are equal.
Form = Literal["codes", "values", "merged"]
# Cells that are transposed at once, and values that are compared at once: they stay in the cache of a core.
_ROWS = 512
_VALUES = 1 << 16
# Codes are made dense where there are more of them than this many per value: a table is made of all of them.
_SPARSE = 12


class GeneStack:
    """Values of groups that are not zero, kept by gene, piece by piece of a few cells.

    Parameters
    ----------
    n_genes
        Number of genes.
    """

    def __init__(self, n_genes: int) -> None:
        self.n_genes = n_genes
        self.n_groups = 0
        self._data: list[tuple[Any, list[int]]] = []
        self._present: list[IntArray] = []
        self._group: list[int] = []

    def add_group(self, X: Any) -> None:
        """Add the next group: its values as CSR [n, G]."""
        for start in range(0, max(X.shape[0], 1), _ROWS):
            columns = (X[start : start + _ROWS] if X.shape[0] > _ROWS else X).tocsc()
            self._data.append((columns.data, columns.indptr.tolist()))
            self._present.append(np.diff(columns.indptr))
            self._group.append(self.n_groups)
        self.n_groups += 1

    @property
    def stored(self) -> IntArray:
        """Return int64 [G], number of values of each gene."""
        return np.asarray(np.sum(self._present, axis=0, dtype=np.int64))

    def of(self, first: int, last: int) -> GeneValues:
        """Return the values of genes `first` to `last` - 1, their codes still the values."""
        values = np.concatenate([data[ptr[first] : ptr[last]] for data, ptr in self._data])
        present = np.stack([n[first:last] for n in self._present]).astype(np.int64)
        return GeneValues(values, present, np.asarray(self._group))


def compare_stacks(
    control: GeneStack,
    groups: GeneStack,
    sizes: IntArray,
    n_controls: int,
    tested: BoolArray,
    form: Form = "codes",
) -> tuple[FloatArray, FloatArray]:
    """Return (two times Mann-Whitney U, tie term) of every group [P, G], of no meaning for genes not tested.

    Parameters
    ----------
    control, groups
        Values of the controls and of the groups.
    sizes
        Number of cells of each group [P].
    n_controls
        Number of control cells.
    tested
        Genes to compare [G].
    form
        What the values are.
    """
    shape = len(sizes), groups.n_genes
    twice, ties = np.zeros(shape), np.zeros(shape)
    stored = control.stored + groups.stored
    for first, last in _batches(tested, stored, 1 if form == "merged" else _VALUES):
        own, others, starts = _coded(control.of(first, last), groups.of(first, last), form)
        part = slice(first, last)
        twice[:, part], ties[:, part] = rank_sums(own, others, sizes, n_controls, starts)
    return twice, ties


def _batches(tested: BoolArray, stored: IntArray, limit: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of ranges of genes with about so many values, which hold all tested genes."""
    upto = np.concatenate([[0], np.cumsum(stored)])
    genes = np.flatnonzero(tested)
    place = 0
    while place < len(genes):
        first = int(genes[place])
        end = int(np.searchsorted(upto, upto[first] + limit, side="right")) - 1
        place = max(int(np.searchsorted(genes, end)), place + 1)
        yield first, int(genes[place - 1]) + 1


def _coded(control: GeneValues, groups: GeneValues, form: Form) -> tuple[GeneValues, GeneValues, IntArray]:
    """Return controls and groups with codes of a few genes, and where the codes of each gene begin."""
    m, B = len(control.codes), control.present.shape[1]
    if form == "codes":
        top = np.maximum(_largest(control), _largest(groups))
        starts = np.concatenate([[0], np.cumsum(top)])
        if starts[-1] <= _SPARSE * (m + len(groups.codes)):
            for side in (control, groups):
                codes = side.codes
                codes += _spread(side, starts[:-1].astype(np.uint32))
            return control, groups, starts
    values = np.concatenate([control.codes, groups.codes])
    negative = None
    if form == "merged":
        codes = value_codes(values, merge=True)
        starts = np.asarray([0, int(codes.max(initial=0)) + 1])
    else:
        gene = np.concatenate([_spread(side, np.arange(B)) for side in (control, groups)])
        bits = values
        if form == "values":
            below = values < 0
            negative = below if below.any() else None
            bits = ordered_bits(values)
        codes, starts = dense_codes(bits, gene, B)
    parts = [
        GeneValues(codes[part], side.present, side.group, None if negative is None else negative[part])
        for side, part in ((control, slice(m)), (groups, slice(m, None)))
    ]
    return parts[0], parts[1], starts


def _spread(side: GeneValues, of_gene: IntArray) -> IntArray:
    """Return what each gene has [B] for every value [n]."""
    return np.repeat(np.tile(of_gene, len(side.present)), side.present.ravel())


def _largest(side: GeneValues) -> IntArray:
    """Return int64 [B], the largest code of each gene and 1, 0 for genes without values."""
    per_piece = side.present.ravel()
    stored = np.flatnonzero(per_piece)
    out = np.zeros(len(per_piece), dtype=np.int64)
    if len(stored):
        out[stored] = np.maximum.reduceat(side.codes, (np.cumsum(per_piece) - per_piece)[stored])
        out[stored] += 1
    return np.asarray(out.reshape(side.present.shape).max(axis=0))


def gene_chunks(tested: BoolArray, stored: int, item_bytes: int, budget: int) -> Iterator[slice]:
    """Yield ranges of genes whose values together stay within a number of bytes, about.

    Parameters
    ----------
    tested
        Genes that are compared [G].
    stored
        Number of stored values of all genes.
    item_bytes
        Bytes of a value.
    budget
        Bytes of each chunk.
    """
    n = max(1, -(-stored * item_bytes // budget))
    edges = np.linspace(0, len(tested), n + 1).astype(int)
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if tested[first:last].any():
            yield slice(first, last)
