"""The scale of expression values, checked against the one that is declared."""

from __future__ import annotations

import numpy as np

from perturbfm_core.data.matrix import Matrix
from perturbfm_core.errors import DatasetError

_LOG1P_CEILING = 25.0


def check_space(X: Matrix, space: str, what: str) -> None:
    """Check that the values of a matrix are plausible for the declared scale.

    Values are never converted automatically: the message says which declaration would fit.

    Parameters
    ----------
    X
        Matrix [N, G], CSR or dense.
    space
        Declared scale: log1p, counts, delta or zscore.
    what
        Name of the matrix for the message.

    Raises
    ------
    DatasetError
        If the values cannot be in `space`.
    """
    data = X.data if hasattr(X, "indptr") else np.asarray(X).reshape(-1)
    if not len(data):
        return
    low, high = float(np.min(data)), float(np.max(data))
    # Most matrices that are not counts show it in the first values, which saves a pass over all of them.
    whole = bool(np.all(data[:100_000] == np.rint(data[:100_000]))) and bool(np.all(data == np.rint(data)))
    if not np.isfinite([low, high]).all():
        return  # non-finite values are reported by `check_finite`, with row and gene
    if space == "log1p":
        if low < 0:
            msg = f"{what} has negative values (minimum {low:.4g}), log1p expression has none; declare --space delta or zscore"
            raise DatasetError(msg)
        if high > _LOG1P_CEILING or (whole and high > 1):
            msg = f"{what} looks like counts ({'whole numbers, ' if whole else ''}maximum {high:.6g}), not log1p; declare --space counts"
            raise DatasetError(msg)
    elif space == "counts":
        if high > np.iinfo(np.int32).max:
            msg = f"{what} has counts up to {high:.6g}, more than a count can be; declare another --space"
            raise DatasetError(msg)
        if low < 0 or not whole:
            kind = "negative values" if low < 0 else "fractions"
            msg = f"{what} has {kind}, counts have none; declare --space log1p, delta or zscore, or name the layer with counts"
            raise DatasetError(msg)
    elif low >= 0:
        msg = f"{what} has no negative value (minimum {low:.4g}), which {space} data have; declare --space log1p or counts"
        raise DatasetError(msg)
