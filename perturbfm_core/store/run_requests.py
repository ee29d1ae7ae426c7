"""Order in which runs were asked for: the run that was asked for last is the one that counts on its board.

A run is asked for when it is made. Where a later request finds a run that was there already, or a run is scored again,
its time is kept in ``runs/.requests``, a file per run, as the run itself never changes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_atomic
from perturbfm_core.store.run_index import rivals

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?")


def request_times(store: ArtifactStore) -> dict[str, str]:
    """Return {run id: UTC time of its last request}, of runs that were asked for at another time than they were made."""
    try:
        files = sorted(_folder(store).iterdir())
    except OSError:
        return {}
    return {file.name: time for file in files if (time := _read(file)) is not None}


def request_order(run_id: str, created: str, times: Mapping[str, str]) -> tuple[str, str, str]:
    """Return the place of a run in the order of requests, to sort by.

    Parameters
    ----------
    run_id, created
        Of the record of the run.
    times
        See `request_times`.
    """
    return (times.get(run_id, created), created, run_id)


def note_request(store: ArtifactStore, run: Path) -> None:
    """Note that a run was asked for which was there already, unless it is the last of its split and entry anyway."""
    others = [name for name in rivals(store, run.name) if name != run.name]
    own = _last_request(store, run.name)
    if any(_last_request(store, name) >= own for name in others):
        put_request(store, run.name, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f"))


def is_behind(store: ArtifactStore, runs: Sequence[Path]) -> bool:
    """Return whether another run of the split and entry of these was asked for after one of them, and counts in their place."""
    own = {run.name for run in runs}
    others = {name for run in own for name in rivals(store, run)} - own
    first = min(_last_request(store, name) for name in own)
    return any(_last_request(store, name) >= first for name in others)


def put_request(store: ArtifactStore, run_id: str, time: str) -> None:
    """Note the time of the last request of a run.

    Parameters
    ----------
    store, run_id
        The store, and the run.
    time
        UTC, in the form of `RunRecord.created`.
    """
    # A store that others own or that is read-only is read as it is.
    with contextlib.suppress(OSError):
        _folder(store).mkdir(parents=True, exist_ok=True)
        write_atomic(_folder(store) / run_id, time + "\n")


def forget_request(store: ArtifactStore, run_id: str) -> None:
    """Forget the requests of a removed run."""
    with contextlib.suppress(OSError):
        (_folder(store) / run_id).unlink(missing_ok=True)


def _folder(store: ArtifactStore) -> Path:
    return store.runs / ".requests"


def _read(file: Path) -> str | None:
    """Return the time that a file holds, None where it is damaged: the run then counts from when it was made."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if _TIME.fullmatch(text) else None


def _last_request(store: ArtifactStore, run_id: str) -> str:
    """Return when a run was asked for last, to the second where only its id says it."""
    found = _read(_folder(store) / run_id)
    s = run_id[:15]
    return found or f"{s[:4]}-{s[4:6]}-{s[6:8]}T{s[9:11]}:{s[11:13]}:{s[13:15]}"
