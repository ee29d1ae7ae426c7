"""Values of an imported matrix in the scale that is stored, checked against the declared one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.imports.mapping import ColumnMapping
from perturbfm_core.data.imports.report import ImportReport
from perturbfm_core.data.imports.value_warnings import value_warnings
from perturbfm_core.data.matrix import Values, as_csr, check_finite, is_stored
from perturbfm_core.data.space import check_space, to_stored
from perturbfm_core.errors import DatasetError


def stored_values(
    X: Any,
    mapping: ColumnMapping,
    what: str,
    names: tuple[list[str], list[str]],
    counts_in: Callable[[], Sequence[str]],
    report: ImportReport,
) -> Values:
    """Return the matrix in the scale that is stored.

    Parameters
    ----------
    X
        Matrix [N, G]: CSR, dense, or rows of a file, which are looked at block by block and stay there.
    mapping
        Declared scale.
    what
        Name of the matrix for messages.
    names
        Row ids and gene ids.
    counts_in
        Returns what other matrices of the file hold.
    report
        Report of the import, to which what was found is added.

    Raises
    ------
    DatasetError
        If the values are not in the declared scale.
    """
    if mapping.is_difference and is_stored(X):
        X = X.load()
    try:
        found = check_space(X, mapping.space, what)
    except DatasetError:
        # Other matrices of the file are looked at only where they may be the cure.
        check_space(X, mapping.space, what, counts_in())
        raise
    if found.empty == X.shape[0]:
        msg = f"{what} has no value other than zero in its {X.shape[0]} rows; check how it was written, or read another --layer"
        raise DatasetError(msg)
    if found.standardized and mapping.is_difference and not mapping.control_label:
        msg = (
            f"{what} has mean 0 and standard deviation 1 in every gene over all rows, so its values are no differences to "
            "controls; give --control-label, whose mean row is then subtracted, or read unscaled values"
        )
        raise DatasetError(msg)
    report.warnings += value_warnings(found, mapping, what, names[0], counts_in)
    report.facts["scale"] = f"{mapping.space}, stored as {mapping.stored_space}"
    report.facts["scale_evidence"] = found.reason
    return _in_storage(X, mapping, what, names, finite=bool(np.isfinite([found.low, found.high]).all()))


def _in_storage(
    X: Any, mapping: ColumnMapping, what: str, names: tuple[list[str], list[str]], *, finite: bool
) -> Values:
    """Return the matrix in the scale that is stored; of rows in a file, `finite` saves a pass over them."""
    ids = np.asarray(names[0], dtype=object), np.asarray(names[1], dtype=object)
    if mapping.is_difference:
        if not finite:
            check_finite(X, what, *ids, allow_negative=True)
        dense = to_stored(X.toarray() if sp.issparse(X) else X, mapping.space)
        return Values(delta=np.ascontiguousarray(dense, dtype=np.float32))
    if mapping.space == "counts":
        csr = (
            X.then(lambda part, _: as_csr(sp.csr_array(part)), sparse=True)
            if is_stored(X)
            else as_csr(sp.csr_array(X))
        )
        # Checked before the cast: integers have no value for missing counts.
        if not (finite and is_stored(csr)):
            check_finite(csr, what, *ids, allow_negative=True)
        return Values(counts=csr.then(_whole) if is_stored(csr) else _whole(csr))
    if is_stored(X):
        if not finite:
            check_finite(X, what, *ids, allow_negative=True)
        return Values(expression=X.then(lambda part, _: _expression(part, mapping.space)))
    return Values(expression=_expression(X, mapping.space))


def _whole(csr: Any, _: Any = None) -> Any:
    return sp.csr_array((csr.data.astype(np.int32), csr.indices, csr.indptr), shape=csr.shape)


def _expression(X: Any, space: str) -> Any:
    return to_stored(as_csr(X) if sp.issparse(X) else np.ascontiguousarray(X), space).astype(np.float32)
