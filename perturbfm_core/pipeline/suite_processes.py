"""The tasks of a submission as processes of this host."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from perturbfm_core.errors import ClusterError
from perturbfm_core.pipeline.suite_jobs import Submission, keep_started
from perturbfm_core.pipeline.suite_launch import Resources, python_command, surroundings, task_command
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.machine import cores
from perturbfm_core.store.owner import process_has_ended

_PATIENCE_S = 10.0


def to_this_host(store: ArtifactStore, made: Submission, resources: Resources) -> None:
    """Start one process per task, and one that ranks when they have ended.

    Not by submitit: its processes would hold the standard output of this one until they end.

    Parameters
    ----------
    store, made, resources
        Where runs go, the submission, and the lines of shell before each task.
    """
    lines = [*resources.setup, *(f"export {k}={shlex.quote(v)}" for k, v in surroundings(store).items())]
    share = max(1, cores() // len(made.tasks))
    lines += [
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{share}}}",
        f"export PERTURBFM_MAX_TRAIN=${{PERTURBFM_MAX_TRAIN:-{len(made.tasks)}}}",
    ]
    jobs: list[tuple[str, int, int]] = []
    for index in range(len(made.tasks)):
        pid = _start([*lines, f"exec {task_command(made, 0, index)}"], made.folder / f"task-{index:04d}.log")
        jobs.append((str(pid), index, 1))
        keep_started(made, jobs, None)
    command = f"exec {python_command('suite', 'refresh', made.suite, '--after', made.id)}"
    refresh = _start([*lines, command], made.folder / "refresh.log")
    keep_started(made, jobs, str(refresh))


def _start(lines: Sequence[str], log: Path) -> int:
    """Start a shell in a session of its own, and return its number."""
    script = "set -e\n" + "\n".join(lines)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawnp("bash", ["bash", "-c", script], os.environ, file_actions=actions, setsid=True)


def end_processes(found: Mapping[str, Submission]) -> None:
    """End processes with all that they started: asked to first, then killed.

    Raises
    ------
    ClusterError
        If one is another user's, or runs on another host; then none is ended.
    """
    for made in found.values():
        if made.elsewhere is not None:
            # The number is that of some other process here.
            msg = f"{made.folder.name}: its task runs on host {made.elsewhere}; cancel it there"
            raise ClusterError(msg)
    deadline = time.monotonic() + _PATIENCE_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [int(pid) for pid, s in found.items() if not process_has_ended(s.boot, int(pid), s.time)]
        for pid in alive:
            try:
                # Each is the head of a process group of its own.
                os.killpg(pid, number)
            except ProcessLookupError:
                continue
            except PermissionError as error:
                msg = f"process {pid} is another user's; it is that user who can cancel it"
                raise ClusterError(msg) from error
        while alive and time.monotonic() < deadline:
            alive = [pid for pid in alive if not process_has_ended(found[str(pid)].boot, pid, time.time())]
            time.sleep(0.05)
