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

from perturbfm_core.errors import StoreError

_SEPARATOR = "@"
# "s3://bucket", and "s3:/bucket", which a path makes of it. Drive letters are no schemes.
_ADDRESS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")


def require_local(path: Path | str, named: str = "the path") -> None:
    """Refuse an address of object storage or of the web, which a path would make a folder ``s3:`` of.

    Raises
    ------
    StoreError
        If `path` is one.
    """
    if _ADDRESS.match(str(path)):
        msg = (
            f"{named} is {str(path)!r}, which is no folder of a file system; locks and renames need one: "
            "give a local path, or mount the storage and give its mount point"
        )
        raise StoreError(msg)


# The name space of process numbers that a machine starts with; containers have others.
_FIRST_NAMESPACE = "pid:[4026531836]"


@lru_cache(maxsize=1)
def host_name() -> str:
    """Return the name of this host as it stands in names of files."""
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"


@lru_cache(maxsize=1)
def _host() -> str:
    """Return the host's name; in a container with what tells its process numbers from the host's."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = _FIRST_NAMESPACE
    own = "" if namespace == _FIRST_NAMESPACE else "-" + re.sub(r"[^0-9]", "", namespace)
    return host_name() + own


@lru_cache(maxsize=1)
def _boot() -> str:
    """Return a mark of this start of the machine: a process number of an earlier one means nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return "0"


def _started(pid: int) -> str | None:
    """Return when a process started, in ticks since boot; "0" where that is unknown, None if it has ended."""
    try:
        # The command, in parentheses, may hold spaces; the state follows it, the start is the 20th field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # What has ended stays in the table until its parent asks for it.
        return None if fields[0] in "ZX" else fields[19]
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


def this_boot() -> str:
    """Return a mark of this host since it last started."""
    return _SEPARATOR.join((_host(), _boot()))


def process_has_ended(boot: str, pid: int, seen: float) -> bool:
    """Return whether a process that ran at some time is known to have ended; False for another host's.

    Parameters
    ----------
    boot
        What `this_boot` returned where it ran.
    pid
        Its number.
    seen
        When it ran, in seconds since 1970.
    """
    host, _, start = boot.partition(_SEPARATOR)
    if host != _host():
        return False
    if start != _boot():
        return True
    ticks = _started(pid)
    if ticks is None:
        return True
    # A process that started after that has only the same number; clocks may be off by a little.
    began = _boot_time()
    return (
        began is not None and ticks != "0" and began + int(ticks) / os.sysconf("SC_CLK_TCK") > seen + _SLACK_S
    )


_SLACK_S = 60.0


def _boot_time() -> float | None:
    """Return when this host started, in seconds since 1970; None where that is unknown."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("btime ")))
    except (OSError, StopIteration, ValueError):
        return None
