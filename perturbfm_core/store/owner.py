"""The owner of a temporary file or staging folder, written into its name: host, boot, process.

Locks are not shared between the hosts of every network file system, names are: what a process of another host is
writing is never touched, and of this host only what a process that has ended left.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from functools import lru_cache
from pathlib import Path

_SEPARATOR = "@"


@lru_cache(maxsize=1)
def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"


@lru_cache(maxsize=1)
def _boot() -> str:
    """Return a mark of this start of the machine: a process number of an earlier one means nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "0"


def _started(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; "0" where that is unknown, None if it is not there."""
    try:
        # The command, in parentheses, may hold spaces; the start is the 20th field after it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return "0"
    return "0"


def new_token() -> str:
    """Return a name that no other write has, and that says which process makes it."""
    pid = os.getpid()
    return _SEPARATOR.join((_host(), _boot(), str(pid), _started(pid) or "0", uuid.uuid4().hex[:12]))


def has_ended(token: str) -> bool:
    """Return whether the process that made a token is known to have ended; False for another host's."""
    parts = token.split(_SEPARATOR)
    if len(parts) != 5 or not parts[2].isdecimal() or parts[0] != _host():
        return False
    if parts[1] != _boot():
        return True
    started = _started(int(parts[2]))
    return started is None or started != parts[3]
