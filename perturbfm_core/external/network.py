"""Network of a worker: none but its own loopback where the kernel permits a namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache

_PROBE_S = 10
# Sets the loopback of the new namespace up, which programs that talk to themselves need, and becomes the worker.
_WITH_LOOPBACK = (
    "import fcntl,os,socket,struct,sys\n"
    "try:\n"
    "    with socket.socket(socket.AF_INET,socket.SOCK_DGRAM) as s:\n"
    "        fcntl.ioctl(s,0x8914,struct.pack('16sh14x',b'lo',0x1))\n"
    "except OSError: pass\n"
    "os.execv(sys.argv[1],sys.argv[1:])\n"
)


def without_network(command: Sequence[str]) -> list[str]:
    """Return a command that runs another in a network namespace of its own, or that command where there can be none.

    It becomes the other program, with the same process number; as a user of its own namespace it is called root there.

    Parameters
    ----------
    command
        Path of a program, and arguments.
    """
    if not can_cut():
        return list(command)
    return [_unshare(), "-r", "-n", "--", sys.executable, "-I", "-S", "-c", _WITH_LOOPBACK, *command]


@lru_cache(maxsize=1)
def can_cut() -> bool:
    """Return whether the kernel lets this user make a network namespace; asked once."""
    if not sys.platform.startswith("linux") or not _unshare():
        return False
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system that does nothing
            [_unshare(), "-r", "-n", "--", sys.executable, "-I", "-S", "-c", ""],
            capture_output=True,
            check=False,
            timeout=_PROBE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _unshare() -> str:
    return shutil.which("unshare") or ""
