"""The scale of expression values: checked against the declared one, and converted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import scipy.sparse as sp

from perturbfm_core.data.matrix import Matrix
from perturbfm_core.data.scale_evidence import Evidence, evidence
from perturbfm_core.errors import DatasetError
from perturbfm_core.schema import Space

ImportSpace = Literal["log1p", "counts", "delta", "zscore", "log2fc", "normalized", "log2p1", "log10p1"]
STORED: Final[dict[str, Space]] = {
    "normalized": "log1p",
    "log2p1": "log1p",
    "log10p1": "log1p",
    "log2fc": "delta",
}
# What programs call fold changes, which are mostly to base 2.
_FOLD_CHANGE = re.compile(r"(?<![a-z])l(?:og)?2?[\W_]*f(?:old)?[\W_]*c(?:hanges?)?(?![a-z])", re.IGNORECASE)

_LOG1P_CEILING = 25.0


def check_space(X: Matrix, space: str, what: str, counts_in: Sequence[str] = ()) -> Evidence:
    """Check that the values of a matrix are plausible for the declared scale, and return what they show.

    The message says which declaration fits.

    Parameters
    ----------
    X
        Matrix [N, G], CSR or dense.
    space
        Declared scale, one of `ImportSpace`.
    what
        Name of the matrix for the message.
    counts_in
        What other matrices of the file hold, with the options that read them.

    Raises
    ------
    DatasetError
        If the values cannot be in `space`.
    """
    found = evidence(X)
    if not np.isfinite([found.low, found.high]).all() or found.reason == "no values":
        return found
    problem = _problem(found, space, counts_in)
    if problem:
        msg = f"{what} {problem}"
        raise DatasetError(msg)
    return found


def _problem(e: Evidence, space: str, counts_in: Sequence[str]) -> str | None:
    counts = f"; {', '.join(counts_in)}" if counts_in else ""
    if e.several:
        return f"has rows in several scales: {e.mixture}; bring them to one scale before importing"
    if space in ("delta", "zscore", "log2fc"):
        if e.low >= 0 and e.standardized:
            return _scaled(space, counts)
        if e.low >= 0:
            fits = f"--space {e.inverse}" if e.inverse else "--space counts" if e.whole else "--space log1p"
            return f"has no negative value (minimum {e.low:.4g}), which {space} data have; declare {fits}"
        if e.standardized and space != "zscore":
            return (
                "has mean 0 and standard deviation 1 in every gene over all rows, so it is scaled, not a difference to "
                f"controls; read unscaled values{counts}, or declare --space zscore with the control rows"
            )
        return None
    if e.low < 0:
        if e.standardized:
            return (
                f"has negative values and mean 0 and standard deviation 1 in every gene: it is scaled, not {space}; "
                f"read unscaled values{counts}, or declare --space zscore with --control-label, which subtracts the "
                "control rows"
            )
        if space == "counts" and e.held is not None:
            return (
                f"has negative values (minimum {e.low:.4g}) in a type that ends at {e.held}, as counts above it become; write "
                "the counts again as int32 or float32"
            )
        if space == "counts":
            return f"has negative values, counts have none (minimum {e.low:.4g}); differences to controls are --space delta or zscore{counts}"
        return (
            f"has negative values (minimum {e.low:.4g}), {space} expression has none; declare --space delta or zscore if "
            f"they are differences to controls{counts}"
        )
    if e.twice:
        return (
            f"is a logarithm of logarithms ({e.twice}), as it is where log1p is run on data that were log-transformed "
            f"already; import the values before that{counts}"
        )
    if e.standardized:
        return _scaled(space, counts)
    if space == "counts":
        if e.high > np.iinfo(np.int32).max:
            return f"has counts up to {e.high:.6g}, more than a count can be; declare another --space"
        if not e.whole:
            if e.inverse is None and e.high > _LOG1P_CEILING:
                return (
                    "has fractions, counts have none; round corrected counts first, or declare --space normalized if every "
                    f"row was scaled to one depth{counts}"
                )
            shown = f" ({e.reason})" if e.inverse else ""
            return f"has fractions, counts have none; declare --space {e.inverse or 'log1p'}{shown}{counts}"
        return None
    if e.inverse is not None and e.inverse != space:
        return f"is not {space}: {e.reason}; declare --space {e.inverse}{counts}"
    if e.whole and e.high > 1 and e.inverse is None:
        return f"looks like counts (whole numbers, maximum {e.high:.6g}), not {space}; declare --space counts"
    if space == "normalized":
        return None
    if e.high > _LOG1P_CEILING:
        return (
            f"has values up to {e.high:.6g}, which no {space} value is; declare --space normalized if every row was scaled "
            f"to one depth and no logarithm taken{counts}"
        )
    return None


def _scaled(space: str, counts: str) -> str:
    return (
        f"has standard deviation 1 in every gene and no negative value: it was scaled without centring (zero_center=False) and is "
        f"not {space}; read unscaled values{counts}"
    )


def to_stored(X: Matrix, space: str) -> Matrix:
    """Return values in the scale that they are stored in: natural logarithms instead of log2, log10 and linear values.

    Parameters
    ----------
    X
        Matrix [N, G], CSR or dense.
    space
        Scale of the values, one of `ImportSpace`.
    """
    if space == "normalized":
        return X.log1p() if sp.issparse(X) else np.log1p(X)
    factor = {"log2p1": np.log(2.0), "log2fc": np.log(2.0), "log10p1": np.log(10.0)}.get(space)
    return (
        X if factor is None else X * np.asarray(factor, dtype=X.dtype if X.dtype.kind == "f" else np.float64)
    )


def fold_change_like(name: str) -> bool:
    """Return whether the name of a layer is that of log fold changes (logFC, log2FoldChange, lfc)."""
    return bool(_FOLD_CHANGE.search(name))
