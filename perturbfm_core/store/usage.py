"""CPU time and peak memory of a part of this process's work."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
# Resets the peak of the resident memory (Linux).
_RESET_PEAK = "5"


class Usage:
    """What the process used between entering and leaving, all of its threads together.

    Attributes
    ----------
    cpu_s
        CPU seconds, user and system.
    peak_bytes
        Largest resident memory, what was there before included; None where the system does not say.
    """

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.peak_bytes: int | None = None

    def __enter__(self) -> Usage:
        self._reset = _reset_peak()
        self._before = _largest()
        self._start = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s = time.process_time() - self._start
        if self._reset:
            self.peak_bytes = _peak()
        elif (largest := _largest()) > self._before:
            # Without a reset the peak is known only if it rose.
            self.peak_bytes = largest


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return _peak() is not None


def _peak() -> int | None:
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None


def _largest() -> int:
    """Return the largest resident memory of the process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
