"""A private Postgres on 127.0.0.1, everything under one folder; needs root and Debian's binaries."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.slurm_node import free_ports, open_folder


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
    folder, (port,), user = binaries(), free_ports(1), pwd.getpwnam("postgres")
    assert folder is not None
    os.chown(root, user.pw_uid, user.pw_gid)

    def run(name: str, *words: str) -> None:
        subprocess.run(
            [folder / name, *words],
            check=True,
            cwd="/",
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            stdout=subprocess.DEVNULL,
        )

    data = str(root / "data")
    run("initdb", "-D", data, "-A", "trust", "-U", "dagster", "--no-sync", "-E", "UTF8")
    options = f"-p {port} -k {root} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-l", str(root / "log"), "-o", options, "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dagster", "dagster")
        yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/dagster"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
