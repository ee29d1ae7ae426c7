"""Cells of one side, measured or predicted, with the perturbation of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.differential.ordering import CountCodes
from perturbfm_core.schema import FloatArray, IntArray, StrArray

InputType = Literal["counts", "lognorm"]
MAX_COUNTS_PER_CELL = 1e6
# How far from a whole number a count may be.
_WHOLE = 1e-6
_PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Cells with one label each.

    Attributes
    ----------
    X
        CSR [N, G] without stored zeros, counts or log1p of counts scaled to a common depth.
    group
        int64 [N], which of `names` a cell has, -1 for cells that are left out.
    names
        str [K], labels in ascending order.
    control
        Index of the control among `names`.
    genes
        str [G].
    input_type
        ``counts`` or ``lognorm``.
    totals
        float64 [N], sum of each cell.
    origin
        The cells that these are a part of; None: all cells.
    """

    X: Any
    group: IntArray
    names: StrArray
    control: int
    genes: StrArray
    input_type: InputType
    totals: FloatArray
    origin: LabelledCells | None = None

    @cached_property
    def sizes(self) -> IntArray:
        """Return int64 [K], number of cells of each group."""
        return np.bincount(self.group + 1, minlength=len(self.names) + 1)[1:]

    @property
    def perturbed(self) -> IntArray:
        """Return int64 [P], the groups other than the control."""
        return np.delete(np.arange(len(self.names)), self.control)

    @property
    def perturbations(self) -> StrArray:
        """Return str [P], labels of the perturbed groups."""
        return np.asarray(self.names[self.perturbed])

    @cached_property
    def rows(self) -> Sequence[IntArray]:
        """Return the rows of each group [K], ascending."""
        order = np.argsort(self.group, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.group + 1, minlength=len(self.names) + 1))[:-1])[1:]

    @cached_property
    def whole(self) -> bool:
        """Return whether every value is a whole number."""
        return _whole(self.X.data)

    def of_group(self, k: int) -> Any:
        """Return CSR [n, G], the cells of one group in their order."""
        return self.X[self.rows[k]]

    @cached_property
    def all_codes(self) -> dict[float, CountCodes]:
        """Return the codes of counts by the depth to which cells are scaled, filled when they are used."""
        return {}

    def only(self, rows: Sequence[IntArray]) -> LabelledCells:
        """Return the same cells, of which all but the given rows of each group [K] are left out."""
        group = np.full(len(self.group), -1)
        for k, chosen in enumerate(rows):
            group[chosen] = k
        part = replace(self, group=group, origin=self.origin or self)
        part.__dict__["whole"] = self.whole
        return part


def label_cells(
    X: Any,
    labels: Any,
    genes: Any,
    control: str,
    input_type: InputType = "counts",
    *,
    what: str = "the cells",
    whole: bool = True,
) -> LabelledCells:
    """Return cells ordered by label, checked to be what `input_type` says.

    Parameters
    ----------
    X
        Cells by genes [N, G], sparse or dense.
    labels
        Label of each cell [N].
    genes
        Names of the genes [G].
    control
        Label of the control cells.
    input_type
        ``counts``, or ``lognorm`` for log1p of counts scaled to a common depth.
    what
        Name of the cells in messages.
    whole
        Whether counts must be whole numbers.

    Raises
    ------
    MetricError
        If there is no control, or the values are not of the type.
    """
    labels, genes = np.asarray(labels).astype(np.str_), np.asarray(genes).astype(np.str_)
    matrix = X if sp.issparse(X) else np.asarray(X)
    if matrix.dtype.kind not in "fiub":
        msg = f"{what} hold {matrix.dtype} values; numbers are needed"
        raise MetricError(msg)
    if matrix.shape != (len(labels), len(genes)):
        msg = f"{what} are a matrix of {matrix.shape}, with {len(labels)} labels and {len(genes)} genes"
        raise MetricError(msg)
    if len(np.unique(genes)) != len(genes):
        twice = next(str(g) for g, n in zip(*np.unique(genes, return_counts=True), strict=True) if n > 1)
        msg = f"{what} have gene {twice!r} more than once; gene names must be unique"
        raise MetricError(msg)
    names, code = np.unique(labels, return_inverse=True)
    place = np.flatnonzero(names == control)
    if not len(place):
        shown = ", ".join(map(str, names[:5]))
        msg = f"{what} have no control {control!r}; labels are {shown}{', ...' if len(names) > 5 else ''}"
        raise MetricError(msg)
    if len(names) < 2:
        msg = f"{what} are all controls ({control!r}); there is no perturbation to score"
        raise MetricError(msg)
    by_cell, totals, exact = _by_cell(matrix, input_type, what, whole=whole)
    cells = LabelledCells(by_cell, code.astype(np.int64), names, int(place[0]), genes, input_type, totals)
    cells.__dict__["whole"] = exact
    return cells


def _by_cell(X: Any, input_type: str, what: str, *, whole: bool) -> tuple[Any, FloatArray, bool]:
    """Return (CSR without zeros and duplicates, sum of each cell, whether all values are whole numbers)."""
    if not sp.issparse(X) or X.format not in ("csr", "csc"):
        X = sp.csr_array(X)
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    totals = row_totals(X)
    exact = check_values(X.data, totals, input_type, what, whole=whole)
    values = X.data.astype(np.uint8) if X.dtype.kind == "b" else X.data
    # Transposed to rows where it is by column, which copies it.
    rows = X.format == "csr"
    kind = sp.csr_array if rows else sp.csc_array
    X = sp.csr_array(kind((values, X.indices, X.indptr), shape=X.shape))
    if len(X.data) and not X.data.all():
        if rows:
            X = X.copy()
        X.eliminate_zeros()
    return X, totals, exact


def row_totals(X: Any) -> FloatArray:
    """Return float64 [N], the sum of each row of a CSC or CSR matrix, added in double precision."""
    out = np.zeros(X.shape[0])
    if X.format == "csr":
        # Whole rows at a time, as many as fit a piece: a copy of all values in double precision costs more.
        ends = np.searchsorted(X.indptr, np.arange(_PIECE, X.nnz + _PIECE, _PIECE), side="left")
        first = 0
        for last in np.unique(np.minimum(ends, X.shape[0])):
            pointers = X.indptr[first : last + 1]
            values = X.data[pointers[0] : pointers[-1]].astype(np.float64)
            stored = np.diff(pointers) > 0
            if len(values):
                out[first:last][stored] = np.add.reduceat(values, (pointers[:-1] - pointers[0])[stored])
            first = int(last)
        return out
    for start in range(0, len(X.data), _PIECE):
        part = slice(start, start + _PIECE)
        out += np.bincount(X.indices[part], weights=X.data[part], minlength=len(out))
    return out


def check_values(
    values: FloatArray, totals: FloatArray, input_type: str, what: str, *, whole: bool = True
) -> bool:
    """Return whether all values are whole numbers; check that they are counts, or log1p of scaled counts.

    Parameters
    ----------
    values
        The stored values [n].
    totals
        Sum of each cell [N].
    input_type
        ``counts`` or ``lognorm``.
    what
        Name of the cells in the message.
    whole
        Whether counts must be whole numbers.

    Raises
    ------
    MetricError
        If they are not, with a value that breaks the rule.
    """
    smallest, largest = float(values.min(initial=0)), float(values.max(initial=0))
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        msg = f"{what} hold NaN or infinite values; every value must be finite"
        raise MetricError(msg)
    if smallest < 0:
        msg = f"{what} hold negative values (smallest {smallest:g}); {input_type} values are not negative"
        raise MetricError(msg)
    exact = _whole(values)
    if input_type == "counts":
        if whole and not exact and not _whole(values, _WHOLE):
            found = values[np.abs(values - np.rint(values)) > _WHOLE][0]
            msg = f"{what} hold {found:g}, which is no count; give whole numbers, or --input-type lognorm"
            raise MetricError(msg)
        depth = float(totals.max(initial=0.0))
        if depth > MAX_COUNTS_PER_CELL:
            msg = f"{what} include a cell with {depth:g} counts; at most {MAX_COUNTS_PER_CELL:g} are allowed"
            raise MetricError(msg)
    else:
        if largest > 0 and (exact or _whole(values, _WHOLE)):
            msg = f"{what} hold whole numbers only, which are counts, not log1p values; give --input-type counts"
            raise MetricError(msg)
        tolerance = 1.0 + 16.0 * float(np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0)
        if largest > np.log1p(MAX_COUNTS_PER_CELL) * tolerance:
            msg = f"{what} hold {largest:g}, more than log1p of {MAX_COUNTS_PER_CELL:g}; these are no log1p values"
            raise MetricError(msg)
    return exact


def _whole(values: FloatArray, tolerance: float = 0.0) -> bool:
    """Return whether all values are whole numbers, looked at piece by piece."""
    if values.dtype.kind in "iub":
        return True
    for start in range(0, len(values), _PIECE):
        part = values[start : start + _PIECE]
        rounded = np.rint(part)
        if not (part == rounded).all() and (np.abs(part - rounded) > tolerance).any():
            return False
    return True


def check_pair(real: LabelledCells, pred: LabelledCells, what: str = "prediction") -> None:
    """Check that a prediction has the genes, in their order, and the labels of the truth.

    Parameters
    ----------
    real, pred
        Measured and predicted cells.
    what
        What the predicted cells are, for messages.

    Raises
    ------
    MetricError
        If it does not, with what is missing.
    """
    if len(real.genes) != len(pred.genes):
        msg = f"the {what} has {len(pred.genes)} genes, the truth {len(real.genes)}; give the same genes in the same order"
        raise MetricError(msg)
    differs = np.flatnonzero(real.genes != pred.genes)
    if len(differs):
        j = differs[0]
        same = "in another order" if set(real.genes) == set(pred.genes) else "other genes"
        msg = f"the {what} has {same}: gene {j + 1} is {str(pred.genes[j])!r}, in the truth {str(real.genes[j])!r}"
        raise MetricError(msg)
    for one, other, absent in ((real, pred, what), (pred, real, "truth")):
        lacking = np.setdiff1d(one.names, other.names)
        if len(lacking):
            shown = ", ".join(map(str, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
            msg = f"the {absent} lacks {len(lacking)} labels of the other file ({shown}); both must have the same"
            raise MetricError(msg)
