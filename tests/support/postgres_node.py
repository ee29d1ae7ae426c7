"""A private Postgres on 127.0.0.1, everything under one folder; needs root and Debian's binaries."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.slurm_node import START_S, CannotStartError, free_ports, open_folder


def binaries() -> Path | None:
    """Return the folder of the newest installed server, None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server while the block runs, and yield the address of its database ``dagster``."""
    with open_folder() as root:
        yield from _postgres(root)


def _postgres(root: Path) -> Iterator[str]:
    folder, (port,), data = binaries(), free_ports(1), str(root / "data")
    assert folder is not None
    options = f"-p {port} -k {root} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        try:
            user = pwd.getpwnam("postgres")
            os.chown(root, user.pw_uid, user.pw_gid)
            _run(folder / "initdb", "-D", data, "-A", "trust", "-U", "dagster", "--no-sync", "-E", "UTF8")
            _run(folder / "pg_ctl", "-D", data, "-w", "-l", str(root / "log"), "-o", options, "start")
            _run(folder / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dagster", "dagster")
        except (OSError, KeyError, subprocess.SubprocessError) as error:
            msg = f"Postgres does not start here: {error}"
            raise CannotStartError(msg) from error
        yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/dagster"
    finally:
        if (root / "data/postmaster.pid").is_file():
            _run(folder / "pg_ctl", "-D", data, "-m", "immediate", "stop")


def _run(program: Path, *words: str) -> None:
    """Run one of the server's programs as its user."""
    user = pwd.getpwnam("postgres")
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    subprocess.run(
        [program, *words], check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=START_S, **identity
    )
