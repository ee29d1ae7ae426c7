"""Slurm's own word on jobs: what is queued or running, how jobs ended, and how to cancel them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from perturbfm_core.errors import ClusterError

_TIMEOUT_S = 60
_NAMES_AT_ONCE = 100
# First, last and step of numbers of tasks.
_RANGE = re.compile(r"([0-9]{1,7})(?:-([0-9]{1,7})(?::([0-9]{1,7}))?)?")


@dataclass(frozen=True)
class QueueEntry:
    """A job, or one task of an array, that Slurm still has.

    Attributes
    ----------
    job
        Its number, ``12`` or ``12_3``.
    state, reason
        Slurm's words, such as ``PENDING`` and ``Resources``.
    name
        What it is called.
    """

    job: str
    state: str
    reason: str
    name: str

    @property
    def is_pending(self) -> bool:
        """Return whether it waits for its start."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


def command(*argv: str, stdin: str | None = None) -> str:
    """Return what one of Slurm's commands prints.

    Parameters
    ----------
    argv
        The command with its arguments.
    stdin
        What it reads.

    Raises
    ------
    ClusterError
        If it is not there, fails, or says nothing for a minute.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments, no shell
            list(argv), input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        msg = f"{argv[0]} is not on PATH; this needs a host from which Slurm jobs are submitted"
        raise ClusterError(msg) from error
    except subprocess.TimeoutExpired as error:
        msg = f"{argv[0]} gave nothing for {_TIMEOUT_S} s; is slurmctld up? try again later"
        raise ClusterError(msg) from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        msg = f"{argv[0]} failed: {said[:300]}"
        raise ClusterError(msg)
    return done.stdout


def queue(names: Sequence[str]) -> list[QueueEntry]:
    """Return the jobs of these names that are queued or running, each task of an array by itself.

    By name, as asking for the number of a job that Slurm has forgotten is an error.

    Raises
    ------
    ClusterError
        If squeue cannot be asked.
    """
    return [entry for chunk in _chunks(names) for entry in _queue("--array", f"--name={','.join(chunk)}")]


def own_queue() -> list[QueueEntry]:
    """Return this user's jobs that are queued or running.

    Raises
    ------
    ClusterError
        If squeue cannot be asked.
    """
    return _queue("--me")


def job_state(job: str) -> dict[str, str]:
    """Return what the controller knows of a job, such as ``JobState`` and ``Reason``; empty if it has forgotten it.

    Raises
    ------
    ClusterError
        If the controller cannot be asked.
    """
    try:
        text = command("scontrol", "--oneliner", "show", "job", job)
    except ClusterError as error:
        if "Invalid job id" in str(error):
            return {}
        raise
    return dict(field.split("=", 1) for field in text.split() if "=" in field)


def endings(jobs: Sequence[str]) -> dict[str, str]:
    """Return how jobs and tasks of arrays ended, by number, from Slurm's accounting; empty where it keeps none."""
    out: dict[str, str] = {}
    for chunk in _chunks(jobs):
        try:
            text = command(
                "sacct",
                "--noheader",
                "--parsable2",
                "--allocations",
                "--format=JobID,State,ExitCode",
                f"--jobs={','.join(chunk)}",
            )
        except ClusterError:
            return out
        for line in text.splitlines():
            job, state, code = (*line.split("|"), "", "")[:3]
            # "CANCELLED by 1000"
            how = state.partition(" ")[0] + (f" (exit {code})" if code not in ("", "0:0") else "")
            one, *others = _tasks(job)
            if others or job.endswith("]"):
                # A line of its own says more of a task.
                for task in (one, *others):
                    out.setdefault(task, how)
            else:
                out[job] = how
    return out


def _tasks(job: str) -> list[str]:
    """Return the tasks of a number as Slurm writes it: those that never began are one range, ``51_[1-3,7%2]``."""
    number, bracket, rest = job.partition("_[")
    if not bracket:
        return [job]
    out = []
    for part in rest.rstrip("]").partition("%")[0].split(","):
        found = _RANGE.fullmatch(part)
        if found is not None:
            first, last, step = (int(x) if x else None for x in found.groups())
            out += [
                f"{number}_{i}"
                for i in range(first or 0, (first or 0 if last is None else last) + 1, step or 1)
            ]
    return out or [job]


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs, or single tasks of arrays.

    Raises
    ------
    ClusterError
        If scancel refuses.
    """
    for chunk in _chunks(jobs):
        command("scancel", *chunk)


def _queue(*words: str) -> list[QueueEntry]:
    text = command("squeue", "--noheader", "--format=%i|%T|%r|%j", *words)
    return [
        QueueEntry(*(field.strip() for field in line.split("|", 3)))
        for line in text.splitlines()
        if line.count("|") >= 3
    ]


def _chunks(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[i : i + _NAMES_AT_ONCE] for i in range(0, len(names), _NAMES_AT_ONCE)]
