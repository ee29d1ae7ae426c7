"""A file system of 20 MB that can be filled up or made read-only, where the user may mount one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SIZE_MB = 20


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system of `SIZE_MB`."""

    path: Path

    @property
    def free(self) -> int:
        """Return the bytes that are free."""
        return shutil.disk_usage(self.path).free

    def fill(self, leave: int) -> None:
        """Fill it up to `leave` bytes."""
        filler = self.path / "filler"
        filler.unlink(missing_ok=True)
        with filler.open("wb") as handle:
            handle.write(b"\0" * max(0, self.free - leave))

    def empty(self) -> None:
        """Remove what fills it."""
        (self.path / "filler").unlink(missing_ok=True)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Make it read-only for a while."""
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", self.path], check=True)


@contextmanager
def small_disk(path: Path) -> Iterator[SmallDisk]:
    """Mount a small disk at `path`, or skip with the reason."""
    if os.geteuid() != 0:
        pytest.skip("a small disk can only be mounted by root")
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    before = Path.cwd()
    try:
        yield SmallDisk(path)
    finally:
        os.chdir(before)
        subprocess.run(["umount", "-l", path], check=True)
