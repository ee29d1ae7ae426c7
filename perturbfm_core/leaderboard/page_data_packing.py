"""Compact parts of the leaderboard page: rounded numbers as compressed text, taken in order of importance up to a limit."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perturbfm_core.schema import FloatArray, IntArray

# Below it a number keeps four significant digits, from it on four decimals, from ten on five significant digits.
SMALL, DECIMALS = 0.01, 4
# The number that stands for a missing one.
MISSING = -(2**23)
_LEVEL = 4
# What a rounded number takes at least, compressed and as text: no part is made that cannot have room.
_LEAST = 1.2


def rounded(values: FloatArray) -> tuple[IntArray, IntArray]:
    """Return (m, d) of the same shape: a value is shown as ``m / 10**d``; `m` is `MISSING` where it is not finite."""
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    size = np.abs(np.where(finite, values, 0.0))
    with np.errstate(divide="ignore"):
        order = np.where(size > 0, np.floor(np.log10(np.maximum(size, 1e-99))), 0).astype(np.int64)
    decimals = np.select([size == 0, size < SMALL, size < 10], [0, 3 - order, DECIMALS], 4 - order)
    decimals = np.clip(decimals, -120, 120)
    scaled = np.where(finite, values, 0.0) * np.power(10.0, decimals)
    return np.where(finite, np.rint(scaled).astype(np.int64), MISSING), decimals


@dataclass
class Part:
    """Named arrays and plain values that the page reads together.

    Attributes
    ----------
    name
        Its name, of letters, digits and hyphens.
    plain
        Whatever JSON can hold.
    numbers
        {name: float array}, rounded when it is packed.
    codes
        {name: array of whole numbers from 0 to 65,535}.
    what
        What is missing without it, in words; empty for a part that is always taken.
    """

    name: str
    plain: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, FloatArray] = field(default_factory=dict)
    codes: Mapping[str, IntArray] = field(default_factory=dict)
    what: str = ""

    @property
    def least(self) -> int:
        """Return the number of characters that it takes at least; no more than a guess."""
        return int(_LEAST * sum(int(np.isfinite(a).sum()) for a in self.numbers.values()))

    def packed(self) -> str:
        """Return the part as text: a JSON head, then the bytes of all arrays by significance; compressed, base64."""
        arrays: list[dict[str, Any]] = []
        planes: list[bytes] = []
        for name, array in self.numbers.items():
            mantissa, decimals = rounded(array)
            low = mantissa.ravel().astype("<i4").view(np.uint8).reshape(-1, 4)
            planes += [low[:, i].tobytes() for i in range(3)] + [decimals.ravel().astype(np.int8).tobytes()]
            arrays.append({"name": name, "kind": "number", "shape": list(array.shape)})
        for name, codes in self.codes.items():
            low = codes.ravel().astype("<u2").view(np.uint8).reshape(-1, 2)
            planes += [low[:, i].tobytes() for i in range(2)]
            arrays.append({"name": name, "kind": "code", "shape": list(codes.shape)})
        head = json.dumps({"plain": self.plain, "arrays": arrays}, ensure_ascii=False, allow_nan=False)
        text = head.encode("utf-8", "replace")
        content = struct.pack("<I", len(text)) + text + b"".join(planes)
        return base64.b64encode(zlib.compress(content, _LEVEL)).decode()


def within(parts: list[Part], limit: int) -> tuple[dict[str, str], list[str]]:
    """Return {name: packed part} in the order given as far as they fit, and what is missing without the others.

    A part that has no room is left out, and a smaller one after it is still taken.

    Parameters
    ----------
    parts
        The parts, the most important first.
    limit
        Number of characters that all of them may take.
    """
    taken: dict[str, str] = {}
    missing: dict[str, int] = {}
    room = limit
    for part in parts:
        text = part.packed() if part.least <= room or not part.what else None
        if text is None or (len(text) > room and part.what):
            missing[part.what] = missing.get(part.what, 0) + 1
            continue
        taken[part.name] = text
        room -= len(text)
    return taken, [what if n == 1 else f"{what} of {n} boards" for what, n in missing.items()]
