"""Arrays and declarations of prediction files, checked: matrices of numbers, names, what the numbers are."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from perturbfm_core import schema
from perturbfm_core.errors import PredictionError
from perturbfm_core.schema import FloatArray, PredictionKind, StrArray

# Names under which others keep what is read as `var`, and its square root.
_UNREAD: Final = {"variance", "variances", "vars", "std", "sd", "stdev", "std_dev", "sigma", "sem", "se"}


def matrix_of(values: Any, name: str, path: Path) -> FloatArray:
    """Return an array of numbers [rows, genes] as float32.

    Parameters
    ----------
    values
        The array.
    name
        Its name, for the message.
    path
        Its file, for the message.

    Raises
    ------
    PredictionError
        If it is not a matrix of numbers.
    """
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        msg = f"{path}: {name} must be float32 [rows, genes], found {values.dtype} {values.shape}"
        raise PredictionError(msg)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def names_of(values: Any, name: str, path: Path) -> StrArray:
    """Return an array of names as text; bytes are read as UTF-8.

    Parameters
    ----------
    values
        The array.
    name
        Its name, for the message.
    path
        Its file, for the message.

    Raises
    ------
    PredictionError
        If it holds no text, or bytes that are not UTF-8.
    """
    array = np.asarray(values)
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            msg = f"{path}: {name} holds bytes that are not UTF-8 ({error}); save it by .astype(str)"
            raise PredictionError(msg) from error
    if array.dtype.kind not in "Uiu":
        msg = f"{path}: {name} must hold text, found {array.dtype}; save it by .astype(str)"
        raise PredictionError(msg)
    return array.astype(np.str_)


def text_of(value: Any, name: str, path: Path) -> str:
    """Return a single text; bytes are read as UTF-8.

    Parameters
    ----------
    value
        The text, or an array that holds it alone.
    name
        Its name, for the message.
    path
        Its file, for the message.

    Raises
    ------
    PredictionError
        If it is not one text.
    """
    names = names_of(value, name, path).reshape(-1)
    if len(names) != 1:
        msg = f"{path}: {name} must be one text, found {len(names)}"
        raise PredictionError(msg)
    return str(names[0]).strip()


def declared_kind(values: Mapping[str, Any], path: Path) -> tuple[PredictionKind | None, str | None]:
    """Return (kind, space) that a file states under these names; `space` may state the kind.

    Raises
    ------
    PredictionError
        If the kind is not known.
    """
    kind, space = (text_of(values[key], key, path) if key in values else None for key in ("kind", "space"))
    if not kind and space in schema.PREDICTION_KINDS:
        kind, space = space, None
    if kind and kind not in schema.PREDICTION_KINDS:
        msg = f"{path}: kind must be delta or expression, found {kind!r}"
        raise PredictionError(msg)
    return kind or None, space


def refuse_unread(names: Iterable[str], path: Path, what: str) -> None:
    """Refuse a file without a variance that has one, or its square root, under a name that is not read.

    Parameters
    ----------
    names
        Names of its arrays, layers or columns.
    path
        The file, for the message.
    what
        What they are the names of, for the message.

    Raises
    ------
    PredictionError
        If there is one.
    """
    listed = list(names)
    unread = [name for name in listed if name.casefold() in _UNREAD]
    if unread and "var" not in listed:
        msg = (
            f"{path}: {what} {unread[0]!r} is not read; give the variance of each mean (the square of a standard deviation) as "
            "'var', or leave it out"
        )
        raise PredictionError(msg)


def refuse_longer(path: Path, lines: Iterable[str], separator: str, n: int) -> None:
    """Refuse a table with a row of more fields than its header: the values of that row are not those of their genes.

    Parameters
    ----------
    path
        The file, for the message.
    lines
        Its lines.
    separator
        What separates fields.
    n
        Fields of the header.

    Raises
    ------
    PredictionError
        If there is one.
    """
    for number, line in enumerate(lines, 1):
        if line.count(separator) < n:
            continue
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
        if any(map(str.strip, fields[n:])):
            msg = (
                f"{path} has {len(fields)} fields in line {number} and {n} in its header; name every column, that of row names too "
                f"(in R: write.csv, or write.table with col.names = NA), and quote text with {separator!r} in it"
            )
            raise PredictionError(msg)
