"""A program that runs command lines in copies of a folder and kills each at another step every time.

A step is a call that changes a directory or flushes a file; a process is killed just before one. The first
copy, ``whole``, is left to finish, which tells how many steps there are. Forks start from a process that has
imported everything, so that a kill costs no start.

Usage: ``python killer.py TEMPLATE COPIES JSON``, the last of {name: [number of kills, [argument, ...]]}; prints the
steps of each command as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import signal
import sys
from pathlib import Path

# What commands import late.
import matplotlib.pyplot  # noqa: F401
import pandas  # noqa: F401
import pyarrow.dataset
import pyarrow.parquet  # noqa: F401
import pydantic.type_adapter  # noqa: F401
import pytest

import perturbfm_core
from perturbfm_core.cli.main import VERBS, main, verb
from tests.support.few_panels import score_only

STEPS = ("replace", "rename", "symlink", "link", "fsync", "mkdir", "unlink")


def count_steps(fatal: int) -> list[int]:
    """Wrap the steps so that the one numbered `fatal` never happens; return the running count."""
    count = [0]

    def wrapped(name):
        # Waiting for the disk is spared: a killed process loses nothing that it wrote.
        plain = (lambda fd: None) if name == "fsync" else getattr(os, name)

        def step(*args, **kwargs):
            count[0] += 1
            if count[0] == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **kwargs)

        return step

    for name in STEPS:
        setattr(os, name, wrapped(name))
    return count


def run(template: Path, folder: Path, argv: list[str], fatal: int) -> tuple[int, int]:
    """Run the command in a copy of `template`; return (signal or minus exit code, steps made)."""
    shutil.copytree(template, folder, symlinks=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the child ends
        count = count_steps(fatal)
        code = 1
        try:
            main(argv)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        finally:
            os.write(writing, str(count[0]).encode())
            os._exit(code)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    reported = os.read(reading, 64)
    os.close(reading)
    code = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
    return code, int(reported or 0)


def spread(n: int, points: int) -> list[int]:
    """Return `points` step numbers from the first to the last of `n`."""
    return sorted({1 + round(i * (n - 1) / (points - 1)) for i in range(points)})


if __name__ == "__main__":
    for module in pkgutil.walk_packages(perturbfm_core.__path__, "perturbfm_core."):
        importlib.import_module(module.name)
    for name in VERBS:
        verb(name)
    # Every panel writes the same files in the same steps.
    score_only(pytest.MonkeyPatch(), "delta")
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    made = {}
    for name, (wanted, argv) in json.loads(sys.argv[3]).items():
        done, steps = run(source, target / name / "whole", argv, fatal=0)
        if done != 0:
            sys.exit(f"{name} failed with {-done}")
        for point in spread(steps, wanted):
            signal_, _ = run(source, target / name / f"{point:04d}", argv, fatal=point)
            if signal_ != signal.SIGKILL:
                sys.exit(f"{name} ended with {signal_} instead of being killed at step {point} of {steps}")
        made[name] = steps
    print(json.dumps(made))
