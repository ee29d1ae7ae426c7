"""Arrays of a parity case's npz file, names among them that were saved as Python objects.

NumPy saves the text of a data frame as objects, by pickle, and a pickle can run any code when it is loaded. It never is
here: the texts are picked out of its instructions, none of which is carried out.
"""

from __future__ import annotations

import contextlib
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from perturbfm_core.schema import StrArray

# Instructions by how many values they take from the stack.
_TAKES = {"STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1, "APPEND": 1, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OF_MARKED = {"TUPLE", "APPENDS"}
_WITHOUT = {"PROTO", "FRAME", "STOP"}


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


@dataclass(eq=False)
class _Made:
    """What a pickle would make, and of what; nothing is made."""

    of: str
    given: list[Any]


def _listed(code: bytes, name: str) -> list[str]:
    """Return the texts of the one list in a pickled array of objects."""
    texts: list[str | None] = [None]
    # Instructions in another order than NumPy writes them lead nowhere.
    with contextlib.suppress(IndexError, KeyError, TypeError, ValueError, AttributeError):
        made = _left(code)
        # The list is the last part of the array's state.
        texts = texts if made is None else [_as_text(value) for value in made.given[-1][-1]]
    found = [text for text in texts if text is not None]
    if len(found) < len(texts):
        msg = f"array {name!r} holds Python objects other than text; save it as text or numbers"
        raise ValueError(msg)
    return found


def _as_text(value: object) -> str | None:
    """Return text, also of NumPy's own type of text, None for anything else."""
    match value:
        case str():
            return value
        case _Made("scalar", [_Made("dtype", [str(kind), *_, (_, "<" | ">" as order, *_)]), bytes(stored)]):
            if kind.startswith("U"):
                return stored.decode("utf-32-le" if order == "<" else "utf-32-be").rstrip("\0")
    return None


def _left(code: bytes) -> _Made | None:
    """Return what the instructions of a pickle leave, calls as `_Made`; None if one is not known here."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def taken(op: str) -> list[Any]:
        """Take from the stack what an instruction is about."""
        at = marks.pop() if op in _OF_MARKED else len(stack) - _TAKES[op]
        values = stack[at:]
        del stack[at:]
        return values

    for op, given, _ in pickletools.genops(code):
        if op.name == "MEMOIZE" or "PUT" in op.name:
            memo[int(given or 0) if "PUT" in op.name else len(memo)] = stack[-1]
        elif "GET" in op.name:
            stack.append(memo[int(given or 0)])
        elif op.name == "MARK":
            marks.append(len(stack))
        elif op.name == "GLOBAL":
            stack.append(_Made(str(given).split(" ")[-1], []))
        elif op.name == "STACK_GLOBAL":
            stack.append(_Made(str(taken(op.name)[-1]), []))
        elif op.name == "REDUCE":
            function, arguments = taken(op.name)
            stack.append(_Made(function.of, list(arguments)))
        elif op.name == "BUILD":
            state = taken(op.name)
            stack[-1].given.extend(state)
        elif op.name.startswith("TUPLE"):
            stack.append(tuple(taken(op.name)))
        elif op.name.startswith("APPEND"):
            values = taken(op.name)
            stack[-1].extend(values)
        elif op.name == "EMPTY_LIST":
            stack.append([])
        elif op.name in _WITHOUT:
            continue
        elif op.stack_before:
            return None
        else:
            # A constant.
            stack.append(given)
    return cast("_Made", stack[-1])
