"""Packed parts of the leaderboard page, unpacked."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from typing import Any

import numpy as np

from perturbfm_core.leaderboard.page_data_packing import MISSING


def parts_of(text: str) -> dict[str, dict[str, Any]]:
    """Return {name: content} of the parts of a page, as its script reads them."""
    found = re.findall(r'<script type="text/plain" id="part-([\w.-]+)">([A-Za-z0-9+/=]+)</script>', text)
    return {name: unpacked(packed) for name, packed in found}


def unpacked(packed: str) -> dict[str, Any]:
    """Return plain values and arrays of a packed part."""
    content = zlib.decompress(base64.b64decode(packed))
    (size,) = struct.unpack("<I", content[:4])
    head = json.loads(content[4 : 4 + size])
    out, at = dict(head["plain"]), 4 + size
    for array in head["arrays"]:
        n = int(np.prod(array["shape"]))
        planes = []
        for _ in range(4 if array["kind"] == "number" else 2):
            planes.append(np.frombuffer(content[at : at + n], dtype=np.uint8).astype(np.int64))
            at += n
        if array["kind"] == "code":
            values: Any = planes[0] + 256 * planes[1]
        else:
            m = planes[0] + (planes[1] << 8) + (planes[2] << 16)
            m = np.where(m >= 2**23, m - 2**24, m)
            d = np.where(planes[3] > 127, planes[3] - 256, planes[3])
            values = np.where(m == MISSING, np.nan, m / np.power(10.0, d))
        out[array["name"]] = values.reshape(array["shape"])
    assert at == len(content)
    return out
