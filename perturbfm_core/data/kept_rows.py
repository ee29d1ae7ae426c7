"""Rows of a large data set that scoring reads, in memory without the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import is_stored, normalize_log1p, take_rows
from perturbfm_core.schema import IntArray

# The rows that were read last of each data set: scores of all entries of a split ask for the same.
_LAST: WeakKeyDictionary[PerturbDataset, KeptRows] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class KeptRows:
    """Some rows of a data set.

    Attributes
    ----------
    rows
        int64 [n], ascending positions in the data set.
    expression, counts
        log1p expression [n, G], CSR or dense, and counts [n, G], None if the data set has none.
    """

    rows: IntArray
    expression: Any
    counts: Any

    def position(self, rows: IntArray) -> IntArray:
        """Return the positions here of rows of the data set, which must be among those kept."""
        return np.searchsorted(self.rows, rows)


def kept_rows(ds: PerturbDataset, rows: IntArray) -> KeptRows | None:
    """Return the given rows, read from the file where the data set is large; None where it lies in memory anyway.

    What was read last is returned as it is if it has these rows, with others.

    Parameters
    ----------
    ds
        A data set of cells.
    rows
        int [n], row positions in any order; each is kept once.
    """
    if not is_stored(ds.streamed_expression):
        return None
    wanted = np.unique(rows).astype(np.int64)
    last = _LAST.get(ds)
    if last is not None and np.isin(wanted, last.rows, assume_unique=True).all():
        return last
    _LAST.pop(ds, None)
    del last
    given, normalization = ds.streamed, ds.metadata.normalization
    counts = None if given.counts is None else given.counts[wanted]
    if given.expression is not None or counts is None or normalization is None:
        expression = ds.streamed_expression[wanted]
    else:
        expression = normalize_log1p(counts, normalization.target_sum)
    return _LAST.setdefault(ds, KeptRows(wanted, expression, counts))


def expression_of(ds: PerturbDataset, rows: IntArray) -> Any:
    """Return log1p expression [n, G] of some rows, in their order; the others of a large data set are not read."""
    kept = kept_rows(ds, rows)
    return take_rows(ds.expression, rows) if kept is None else take_rows(kept.expression, kept.position(rows))
