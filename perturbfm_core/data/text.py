"""Text of files: names and labels that were stored as text, bytes, numbers or categories."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.errors import DatasetError


def decoded(values: Iterable[Any], what: str) -> list[str]:
    """Return values as text; bytes are UTF-8, as anndata reads them.

    Parameters
    ----------
    values
        Names or labels.
    what
        What they are, for the message.

    Raises
    ------
    DatasetError
        If bytes are not UTF-8.
    """
    out = []
    for i, value in enumerate(values):
        if isinstance(value, bytes | bytearray | np.bytes_):
            try:
                out.append(bytes(value).decode())
            except UnicodeDecodeError as exc:
                msg = f"{what} has bytes that are not UTF-8, first {bytes(value)[:40]!r} at position {i}; write them as text"
                raise DatasetError(msg) from exc
        else:
            out.append(str(value))
    return out


def column_text(column: pd.Series, what: str) -> pd.Series:
    """Return a column as text without spaces around it; whole numbers lose their decimal point.

    "10.0" and "10" are one dose, a duration is "36 h". Numbers are never written with an exponent: the plus sign in "1e+06" would be
    read as a separator, and a short mantissa could merge two different ids.

    Parameters
    ----------
    column
        Column [N] of text, bytes, numbers or categories, without missing values.
    what
        Name of the column, for messages.

    Raises
    ------
    DatasetError
        If bytes are not UTF-8, or a value is a list or the like.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        known = column_text(pd.Series(np.asarray(column.cat.categories)), what).to_numpy(dtype=object)
        return pd.Series(known[column.cat.codes.to_numpy()], index=column.index, dtype=object)
    values = column.to_numpy()
    if values.dtype.kind == "f":
        text = {x: _number(x) for x in set(values)}
        return pd.Series([text[x] for x in values], index=column.index, dtype=object)
    if values.dtype.kind in "biuM":
        return column.astype(str)
    if values.dtype.kind == "m":
        return column_text(column / pd.Timedelta(hours=1), what) + " h"
    try:
        # Labels repeat: each distinct one is decoded once.
        codes, distinct = pd.factorize(np.asarray(values, dtype=object))
    except TypeError:
        first = next((v for v in values if not isinstance(v, Hashable)), None)
        msg = f"{what} holds {type(first).__name__}s, e.g. {str(first)[:60]}; write each as one text, such as 'A+B'"
        raise DatasetError(msg) from None
    # Numbers among objects are written as those of a column of numbers.
    distinct = [_number(x) if isinstance(x, float | np.floating) else x for x in distinct]
    known = np.asarray([t.strip() for t in decoded(distinct, what)], dtype=object)
    return pd.Series(known[codes], index=column.index, dtype=object)


def _number(value: Any) -> str:
    return np.format_float_positional(value, precision=15, fractional=False, trim="-")
