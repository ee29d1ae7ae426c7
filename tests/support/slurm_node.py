"""A Slurm of one node on 127.0.0.1 with a munge of its own, everything under one folder; needs root."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
# Seconds that a daemon has to come up, and a job to end.
START_S = 60


class CannotStartError(Exception):
    """A daemon that is installed does not come up on this machine, as in a container without its rights."""


def why_not() -> str | None:
    """Return why no Slurm can be started here, None if one can."""
    if os.getuid() != 0:
        return "a Slurm of its own needs root"
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)" if missing else None


def free_ports(n: int) -> list[int]:
    """Return ports that nobody listens on."""
    taken = [socket.socket() for _ in range(n)]
    try:
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in taken]
    finally:
        for one in taken:
            one.close()


def _configuration(root: Path, host: str, cpus: int) -> str:
    controller, node = free_ports(2)
    lines = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmdPort": node,
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={root}/munge/socket",
        "CredType": "cred/munge",
        "StateSaveLocation": root / "state",
        "SlurmdSpoolDir": root / "spool",
        "SlurmctldPidFile": root / "slurmctld.pid",
        "SlurmdPidFile": root / "slurmd.pid",
        "SlurmctldLogFile": root / "slurmctld.log",
        "SlurmdLogFile": root / "slurmd.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "SchedulerParameters": "bf_interval=1,sched_interval=1",
        "AccountingStorageType": "accounting_storage/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "ReturnToService": 2,
        "KillWait": 5,
        # The node may say that it has more or less than this.
        "SlurmdParameters": "config_overrides",
    }
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    text += f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN\n"
    return text + f"PartitionName=test Nodes={host} Default=YES DefMemPerCPU=1000 State=UP\n"


@contextmanager
def skip_unless_started() -> Iterator[None]:
    """Skip the test, with the reason, if a daemon does not come up while the block is entered."""
    try:
        yield
    except CannotStartError as error:
        pytest.skip(str(error))


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that daemons of other users reach; that of pytest is closed to them."""
    with tempfile.TemporaryDirectory(prefix="perturbfm-", ignore_cleanup_errors=True) as made:
        root = Path(made)
        root.chmod(0o755)
        yield root


@contextmanager
def slurm_node(cpus: int = 2) -> Iterator[Path]:
    """Run a Slurm while the block runs, and yield its configuration file; its jobs end with it."""
    with open_folder() as root:
        yield from _slurm_node(root, cpus)


def _slurm_node(root: Path, cpus: int) -> Iterator[Path]:
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool", "munge"):
        (root / name).mkdir()
    conf = root / "slurm.conf"
    conf.write_text(_configuration(root, host, cpus))
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    log = root / "slurmctld.log"
    try:
        try:
            _start_munge(root)
            for daemon, words in (("slurmctld", []), ("slurmd", ["-N", host])):
                subprocess.run(
                    [daemon, *words], check=True, env=environment, capture_output=True, timeout=START_S
                )
            _wait_for(environment, "sinfo", "--noheader", "--format=%T", wanted="idle", log=log)
        except (OSError, KeyError, subprocess.SubprocessError, TimeoutError) as error:
            msg = f"Slurm does not start here: {error}"
            raise CannotStartError(msg) from error
        yield conf
    finally:
        # Whatever does not end in time is killed below.
        with contextlib.suppress(OSError, subprocess.SubprocessError, TimeoutError):
            if (root / "slurmctld.pid").is_file():
                subprocess.run(
                    ["scancel", "--me"], env=environment, check=False, timeout=20, stderr=subprocess.DEVNULL
                )
                _wait_for(environment, "squeue", "--noheader", wanted="", log=log)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            _end(root / name)
        kill_left(root)


def _start_munge(root: Path) -> None:
    user = pwd.getpwnam("munge")
    key = root / "munge/key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    for path in (root / "munge", key):
        os.chown(path, user.pw_uid, user.pw_gid)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    words = [f"--{option}={root}/munge/{name}" for option, name in files.items()]
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    subprocess.run(
        ["munged", "--force", *words], check=True, timeout=START_S, stderr=subprocess.DEVNULL, **identity
    )


def _wait_for(environment: dict[str, str], *command: str, wanted: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        done = subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True, timeout=START_S
        )
        if done.returncode == 0 and done.stdout.strip() == wanted:
            return
        if time.monotonic() > deadline:
            message = f"{command[0]}: {done.stdout} {done.stderr}; {log.read_text()[-2000:] if log.is_file() else ''}"
            raise TimeoutError(message)
        time.sleep(0.1)


def _end(pid_file: Path) -> None:
    """End a daemon by its pid file, if need be by force."""
    text = pid_file.read_text().strip() if pid_file.is_file() else ""
    if not text:
        return
    pid = int(text)
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return


def kill_left(root: Path) -> None:
    """Kill the processes, jobs among them, that were started with a file below `root` in their environment."""
    mark = f"={root}/".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
