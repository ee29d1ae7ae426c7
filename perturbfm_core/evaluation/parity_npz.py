"""Arrays of a parity case's npz file, names among them that were saved as Python objects.

NumPy saves the text of a data frame as objects, by pickle, and a pickle can run any code when it is loaded. It never is
here: the texts are picked out of its instructions, none of which is carried out.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import IO, Any

import numpy as np

from perturbfm_core.schema import StrArray

_LIST = {"MARK", "APPEND", "APPENDS"}
_END = {"BUILD", "STOP"}


def read_arrays(path: Path) -> dict[str, Any]:
    """Return all arrays of an npz file by name; arrays of objects as text.

    Raises
    ------
    ValueError
        If an array of objects holds anything but text.
    """
    out: dict[str, Any] = {}
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as given:
        for name in given.files:
            try:
                out[name] = given[name]
            except ValueError as error:
                if "Object arrays" not in str(error):
                    raise
                with given.zip.open(f"{name}.npy") as member:
                    out[name] = _text(member, name)
    return out


def _text(member: IO[bytes], name: str) -> StrArray:
    version = np.lib.format.read_magic(member)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, _ = headers[version](member)
    # Objects are listed by rows, however the array lay.
    return np.asarray(_listed(member.read(), name), dtype=np.str_).reshape(shape)


def _listed(code: bytes, name: str) -> list[str]:
    """Return the texts of the one list in a pickled array of objects."""
    texts: list[str] = []
    memo: dict[int, str | None] = {}
    last: str | None = None
    at = "before"
    for op, given, _ in pickletools.genops(code):
        value = None
        if "UNICODE" in op.name or "GET" in op.name:
            value = str(given) if "UNICODE" in op.name else memo.get(int(given or 0))
        if op.name == "MEMOIZE" or "PUT" in op.name:
            memo[int(given or 0) if "PUT" in op.name else len(memo)] = last
        elif at == "before":
            at = "inside" if op.name == "EMPTY_LIST" else at
        elif at == "inside" and value is not None:
            texts.append(value)
        elif at == "inside" and op.name.startswith("TUPLE"):
            # The list is the last part of the array's state.
            at = "after"
        elif op.name not in (_LIST if at == "inside" else _END):
            msg = f"array {name!r} holds Python objects other than text; save it as text or numbers"
            raise ValueError(msg)
        last = value
    return texts
