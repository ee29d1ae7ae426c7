"""Return of freed memory to the system."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

# Resident bytes up to which nothing is done: pages that are given back must be asked for again.
_FROM = 768 << 20


def give_back() -> None:
    """Give memory that was freed back to the system, where a process is large and its C library can.

    The library keeps arrays of up to 32 MB that were freed between others that are in use, so that a step of many such
    arrays leaves the process as large as it was at its peak, and the next step adds to that.
    """
    if _resident() > _FROM and (trim := _trim()) is not None:
        trim(0)


def _resident() -> int:
    """Return the resident bytes of this process, 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@cache
def _trim() -> Any:
    """Return the C library's function, None where there is none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
