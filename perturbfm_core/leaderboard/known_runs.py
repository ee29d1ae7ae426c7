"""Records of runs that were read before, and the check that their files are still those."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.run_rows import run_row
from perturbfm_core.store.atomic import file_digest
from perturbfm_core.store.run_record import read_run_record

# A file that changed this shortly before it was read may change again without another time.
_SETTLED_NS = 2_000_000_000
_READ = (schema.CONFIG_FILE, schema.SCORES_FILE)


@dataclass(frozen=True)
class KnownRun:
    """A run directory that was read.

    Attributes
    ----------
    folder
        Name of the directory.
    stamp, read_ns
        Times, sizes and places of its record and scores; when they were read.
    record_digest, scores_digest
        Their SHA-256; that of the scores is empty until these are read.
    row
        See `run_row`.
    metrics, keys
        Digests of the metrics and of the conditions of its scores; empty until these are read.
    """

    folder: str
    stamp: str
    read_ns: int
    record_digest: str
    row: Mapping[str, Any]
    scores_digest: str = ""
    metrics: str = ""
    keys: str = ""


def stamp_of(path: Path) -> tuple[str, int]:
    """Return (times, sizes and places of the files that are read, the newest of the times).

    Raises
    ------
    StoreError
        If a file of the run is missing.
    """
    try:
        # One look into the folder is cheaper than one at every file, of which a store has tens of thousands.
        there = set(os.listdir(path))
    except OSError:
        there = set()
    missing = [name for name in schema.RUN_FILES if name not in there]
    if missing:
        msg = f"{path} is not whole: it lacks {', '.join(missing)}; remove the run or make it again"
        raise StoreError(msg)
    parts = [os.stat(f"{path}/{name}") for name in _READ]
    return ":".join(f"{s.st_mtime_ns}.{s.st_size}.{s.st_ino}" for s in parts), max(
        s.st_mtime_ns for s in parts
    )


def unchanged(path: Path, known: KnownRun) -> KnownRun | None:
    """Return what is known of a run whose files are as they were, None if they are not.

    Raises
    ------
    StoreError
        If a file of the run is missing.
    """
    stamp, newest = stamp_of(path)
    if known.row["path"] != str(path):
        known = replace(known, row={**known.row, "path": str(path)})
    if stamp == known.stamp and newest < known.read_ns - _SETTLED_NS:
        return known
    now = time.time_ns()
    found = (file_digest(path / schema.CONFIG_FILE), file_digest(path / schema.SCORES_FILE))
    return (
        replace(known, stamp=stamp, read_ns=now)
        if found == (known.record_digest, known.scores_digest)
        else None
    )


def read_known(path: Path) -> KnownRun:
    """Read the record of a run; its scores are read later.

    Raises
    ------
    StoreError
        If a file is missing or the record is none.
    """
    now = time.time_ns()
    stamp, _ = stamp_of(path)
    row = run_row(read_run_record(path), path)
    try:
        # As JSON keeps it, so that a run that was read earlier has the same row.
        row = json.loads(json.dumps(row))
    except (TypeError, ValueError) as error:
        msg = f"{path / schema.CONFIG_FILE} is not the record of a run ({error}); remove the run or make it again"
        raise StoreError(msg) from error
    return KnownRun(path.name, stamp, now, file_digest(path / schema.CONFIG_FILE), row)
