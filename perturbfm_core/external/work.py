"""Work of an external model's worker for one fit: its export, its call, and its output as an object of the store."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbfm_core.config import content_hash
from perturbfm_core.errors import ExternalError, PredictionError
from perturbfm_core.external.export import export
from perturbfm_core.external.known_environments import KNOWN, licence_notice
from perturbfm_core.external.raw import ARRAYS_FILE, META_FILE
from perturbfm_core.external.request import CONTROLS_FILE, REQUEST_FILE, VIEW_FILE, Ahead
from perturbfm_core.external.runner import LOG_FILE, WorkerCall, run_worker
from perturbfm_core.external.settings import environment_identity, interpreter_of, timeout
from perturbfm_core.parsing import read_json_file
from perturbfm_core.progress import WARNING, worker_session
from perturbfm_core.splits.view import TrainView
from perturbfm_core.store.artifacts import Artifact
from perturbfm_core.store.atomic import read_json, write_json
from perturbfm_core.store.machine import cores, max_train

WORKERS = Path(__file__).parent / "workers"
COST_FILE = "cost.json"
# Below the folder of a fit: what a worker leaves for the next attempt at it, should this one be ended.
KEPT_FOLDER, SPENT_FILE = "kept", "spent.json"
# The earlier form of an output keeps the model's own control in a file of its own.
_KEPT = (ARRAYS_FILE, META_FILE, "model_control.npy")


@dataclass(frozen=True)
class Worker:
    """A worker with its parameters.

    Attributes
    ----------
    environment
        Name of its environment.
    script
        Its file.
    params
        What ``request.json`` gives it.
    """

    environment: str
    script: Path
    params: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the script and of what lies beside it for all workers."""
        files = [f for f in (self.script, self.script.parent / "common.py") if f.is_file()]
        return hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()

    def identity(self) -> dict[str, str]:
        """Return what decides its output beside data, split, parameters and seed."""
        return {"worker": self.digest, "environment": environment_identity(self.environment)}


def raw_output(worker: Worker, view: TrainView, ahead: Ahead, *, model: str, seed: int) -> Artifact:
    """Run a worker on the export of a split, or find its output.

    Parameters
    ----------
    worker
        The worker.
    view
        The train view.
    ahead
        The request, and where the work is kept.
    model, seed
        Name of the model, and seed of everything random.

    Returns
    -------
    Artifact
        ``raw.npz``, ``raw.json``, ``worker.log`` and ``cost.json``.

    Raises
    ------
    ExternalError
        If the environment is not there, or the worker fails.
    """
    store = ahead.store
    exported = export(store, ahead.dataset, ahead.split, view, ahead.request)
    asked = {"params": dict(worker.params), "seed": seed, "model": model}
    key = content_hash({"stage": "external_raw", "export": exported.key, **worker.identity(), **asked})
    if (found := store.find(key)) is not None:
        ahead.tell(f"found the output of {model} (seed {seed})")
        return found
    python = interpreter_of(worker.environment, store)
    if worker.environment in KNOWN and (notice := licence_notice(worker.environment)):
        # Once for the program: it is shown whether or not progress is.
        ahead.tell(f"{WARNING}{notice}")
    place = store.external_work / key[:16]

    def fill(folder: Path) -> None:
        given, kept = place / "view", place / KEPT_FOLDER
        shutil.rmtree(given, ignore_errors=True)
        given.mkdir(parents=True)
        kept.mkdir(exist_ok=True)
        for name in (VIEW_FILE, CONTROLS_FILE):
            (given / name).symlink_to((exported.path / name).absolute())
        write_json(given / REQUEST_FILE, {**read_json(exported.path / REQUEST_FILE), **asked})
        again = ", going on from what an earlier attempt left" if any(kept.iterdir()) else ""
        ahead.tell(f"running the worker of {model}, seed {seed}{again}")
        earlier = _spent(kept)
        start, (before, largest) = time.perf_counter(), _children()
        with worker_session(ahead.tell) as variables:
            call = WorkerCall(
                name=worker.environment,
                python=python,
                worker=worker.script,
                view=given,
                work=place / "work",
                threads=max(1, cores() // max_train()),
                timeout=timeout(),
                variables={**variables, "PERTURBFM_KEPT": str(kept.absolute())},
            )
            with _inputs_kept(exported.path, model):
                out = run_worker(call, ahead.tell)
        for name in _KEPT:
            if (out / name).is_file():
                shutil.copyfile(out / name, folder / name)
        shutil.copyfile(call.log, folder / LOG_FILE)
        seconds, (cpu, peak) = time.perf_counter() - start, _children()
        cost: dict[str, float | int] = {
            "seconds": round(seconds + earlier["seconds"], 3),
            "cpu_s": round(cpu - before + earlier["cpu_s"], 3),
        }
        # The largest of all so far, which is this worker only where it rose.
        write_json(folder / COST_FILE, {**cost, **({"peak_bytes": peak} if peak > largest else {})})

    with store.lock(f"external-{key[:16]}", what=f"the worker of {model}", tell=ahead.tell):
        reused = store.find(key) is not None
        path = store.put_object(key, fill)
    # After a failure the folder stays, for its log and for the next attempt.
    shutil.rmtree(place, ignore_errors=True)
    return Artifact(key, path, reused)


@contextlib.contextmanager
def _inputs_kept(export: Path, model: str) -> Iterator[None]:
    """Refuse a worker that changes what it is given, which other workers are given as well, and have it made anew.

    That its files are read-only stops no superuser, as in a container, from changing them in place.

    Parameters
    ----------
    export
        Folder of the export.
    model
        Name of the model, for the message.

    Raises
    ------
    ExternalError
        If it did.
    """

    def state() -> list[tuple[int, ...]]:
        found = [export / name for name in (VIEW_FILE, CONTROLS_FILE)]
        return [(s.st_ino, s.st_size, s.st_mtime_ns) for s in (f.stat() for f in found if f.is_file())]

    before = state()
    try:
        yield
    finally:
        if is_changed := state() != before:
            shutil.rmtree(export, ignore_errors=True)
    if is_changed:
        msg = (
            f"the worker of {model} changed {VIEW_FILE} or {CONTROLS_FILE}, which other workers are given as well; let it change "
            "a copy, in its memory or its output folder (the files are made anew by the next run)"
        )
        raise ExternalError(msg)


def _spent(kept: Path) -> dict[str, float]:
    """Return the seconds and CPU seconds of the earlier attempts that a worker goes on from, as it has written them.

    Half a file, which a worker leaves that is ended while it writes, says nothing.
    """
    file = kept / SPENT_FILE
    said: Any = {}
    with contextlib.suppress(PredictionError):
        said = read_json_file(file, PredictionError) if file.is_file() else {}
    if not isinstance(said, dict) or not all(isinstance(v, int | float) and v >= 0 for v in said.values()):
        msg = f"{file} has {said!r}; a worker writes seconds and cpu_s there, or nothing"
        raise ExternalError(msg)
    return {"seconds": said.get("seconds", 0.0), "cpu_s": said.get("cpu_s", 0.0)}


def _children() -> tuple[float, int]:
    """Return CPU seconds, and the largest resident memory in bytes, of the processes that this one started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
