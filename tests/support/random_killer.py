"""A program that kills commands at random times in one folder, and looks each time at what they left.

Forks start from a process that has imported everything, so that a kill costs no start. Every command is run to its
end after it was killed; now and then a second process does the same work meanwhile.

Usage: ``python random_killer.py FOLDER SEED KILLS``; prints {kills by command, what was lost, half, stuck} as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# What commands import late.
import matplotlib.pyplot  # noqa: F401
import pandas  # noqa: F401
import pyarrow.dataset
import pyarrow.parquet  # noqa: F401
import pydantic.type_adapter  # noqa: F401

import perturbfm_core
from perturbfm_core.cli.main import VERBS, main, verb
from perturbfm_core.schema import RUN_FILES
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import file_digest, read_json
from perturbfm_core.store.run_record import is_whole, read_run_record

# Longer than any of these commands takes on a busy machine.
STUCK_S = 120
ON = ["--data", "data/small", "--split", "SPLIT"]
COMMANDS: dict[str, list[str]] = {
    "import": ["data", "make-synth", "--out", "data/dNUMBER", "--name", "dNUMBER", "--n-obs", "160", "--n-perts", "4", "--seed", "NUMBER", "--register", "--force"],
    "freeze": ["splits", "create", "--data", "data/small", "--spec", "perturbation_ood", "--folds", "2", "--seed", "NUMBER", "--no-bounds"],
    "train": ["train", "linear", *ON, "--seed", "NUMBER"],
    "run": ["run", *ON, "--entry", "additive", "--seed", "NUMBER"],
    "refresh": ["leaderboard", "refresh"],
    "tune": ["tune", "ridge", *ON, "--trials", "2", "--study", "sNUMBER"],
    "dagster": [],
}  # fmt: skip
# A study is one process's at a time: a second one is refused.
ALONE = ("tune",)


def dagster_cell(number: int) -> Callable[[], None]:
    """Return the work of one run of Dagster's job `benchmark` in this process, with its instance on disk."""

    def work() -> None:
        import dagster as dg

        from perturbfm_assets.definitions import defs
        from perturbfm_assets.launcher import host_tags
        from perturbfm_assets.partitions import grid_key

        models = ("ridge", "global_mean", "control_only")
        with dg.DagsterInstance.from_config(".") as instance:
            result = defs.resolve_job_def("benchmark").execute_in_process(
                instance=instance,
                partition_key=grid_key(models[number % len(models)], split_key()),
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                tags={**host_tags(), "perturbfm/again": "true"},
            )
            if not result.success:
                sys.exit(1)

    return work


def split_key() -> str:
    """Return the key of the split that everything runs on."""
    return next(e.key for e in SplitFolder(Path("splits")).index().splits if e.kind == "context_ood")


def start(name: str, number: int) -> int:
    """Start a command in a process of its own and return its number."""
    split = next(e.hash for e in SplitFolder(Path("splits")).index().splits if e.kind == "context_ood")
    words = [w.replace("NUMBER", str(number)).replace("SPLIT", split) for w in COMMANDS[name]]
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with Path("../output.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            print(f"--- {name} {number} {words}", flush=True)
            if name == "dagster":
                dagster_cell(number)()
                code = 0
            else:
                main(words)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def end(child: int, within: float = STUCK_S) -> int | None:
    """Return how a process ended (minus the signal, or the exit code), None if it is stuck and was killed for it."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def published() -> dict[str, str]:
    """Return {file: digest} of everything that was published and must never change or vanish."""
    files = [
        *Path("runs").glob("2*/*"),
        *(p for p in Path("splits").glob("*.json") if p.stem != "index" and ".stats" not in p.name),
        *Path("data").glob("*/meta.json"),
        *Path(".perturbfm/catalog").rglob("*.yaml"),
    ]
    return {str(p): file_digest(p) for p in files}


def half() -> list[str]:
    """Return what is there and is not whole."""
    found = []
    store = ArtifactStore()
    for folder in Path("runs").glob("2*"):
        complete = all((folder / name).is_file() for name in RUN_FILES)
        if not complete or not is_whole(folder, read_run_record(folder)):
            found.append(str(folder))
    for file in [*Path("splits").glob("*.json"), *Path("data").glob("*/meta.json")]:
        try:
            read_json(file)
        except Exception as error:
            found.append(f"{file}: {error}")
    for line in SplitFolder(Path("splits")).index().splits:
        checked = SplitFolder(Path("splits")).verify(line.hash, None)
        found += [f"split {line.key}: {p}" for p in checked.problems]
    if not store.leaderboard.resolve().is_file():
        found.append("the leaderboard")
    return found


def debris() -> list[str]:
    """Return what interrupted writes left."""
    return [
        str(p)
        for p in Path().rglob("*")
        if (".staging" in p.parts and p.name != ".staging")
        or p.suffix == ".tmp"
        or ".building" in p.name
        or ".old." in p.name
    ]


def prepare() -> None:
    """Import everything that a command may."""
    for module in pkgutil.walk_packages(perturbfm_core.__path__, "perturbfm_core."):
        importlib.import_module(module.name)
    for name in VERBS:
        verb(name)
    importlib.import_module("perturbfm_assets.definitions")


def dead_runs() -> int:
    """Return how many of Dagster's runs are still called running though their process was killed, for all it knows."""
    import dagster as dg

    from perturbfm_assets.launcher import WatchedRunLauncher

    stuck = 0
    with dg.DagsterInstance.from_config(".") as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, WatchedRunLauncher)
        for run in instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
            stuck += launcher.check_run_worker_health(run).status.value != "FAILED"
    return stuck


if __name__ == "__main__":
    folder, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.chdir(folder)
    prepare()
    # A killed process loses nothing that it wrote.
    os.fsync = lambda fd: None
    draw, names = random.Random(seed), list(COMMANDS)
    seconds, failed, lost, broken, stuck = {}, [], set(), set(), []
    # Each is run once undisturbed, to know how long it takes.
    for number, name in enumerate(names):
        begin = time.monotonic()
        code = end(start(name, 1000 + number))
        seconds[name] = time.monotonic() - begin
        if code != 0:
            failed.append(f"{name}, undisturbed: {code}")
    known, made = published(), Counter()
    while sum(made.values()) < kills and not failed:
        number = sum(made.values())
        name = names[number % len(names)]
        child = start(name, number)
        beside = start(name, number) if draw.random() < 0.2 and name not in ALONE else None
        time.sleep(draw.uniform(0, 0.95 * seconds[name]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if end(child) == -signal.SIGKILL:
            made[name] += 1
        else:
            # It was done before: the times are those of a slower moment.
            seconds[name] *= 0.8
        broken |= set(half())
        # The process beside is not disturbed, and the command can be repeated.
        for other in (beside, 0):
            if other is None:
                continue
            code = end(other or start(name, number))
            if code is None:
                stuck.append(f"{name} {number}")
            elif code != 0:
                failed.append(f"{name} {number}: {code}")
        now = published()
        lost |= {p for p, digest in known.items() if now.get(p) != digest}
        broken |= set(half())
        known = now
    begin = time.monotonic()
    for name in names:
        code = end(start(name, 2000))
        if code != 0:
            failed.append(f"{name}, at the end: {code}")
    left = debris()
    still = dead_runs()
    print(json.dumps({"kills": made, "lost": sorted(lost), "half": sorted(broken), "stuck": stuck, "failed": failed, "debris": left, "running": still}))  # fmt: skip
