"""Processes that tests wait for, and free ports."""

from __future__ import annotations

import socket
import time
from pathlib import Path


def ends(pid: int) -> bool:
    """Return whether a process ends within a few seconds; a zombie has ended."""
    until = time.monotonic() + 8
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
