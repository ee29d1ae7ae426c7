"""Removal of runs and of stored objects that no run needs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_index import forget_run
from perturbfm_core.store.run_record import RunRecord, is_whole, read_run_record
from perturbfm_core.store.run_requests import forget_request, request_order, request_times
from perturbfm_core.store.run_tags import run_tags, tag_run

# Files by which an object of one run is known. All others (graphs, encoders, bounds, strata) serve many runs, and the
# few kB of a calibration report are not worth the look.
_OF_A_RUN = (schema.MODEL_META_FILE, schema.PREDICTIONS_FILE, schema.SCORES_FILE)


@dataclass(frozen=True)
class Garbage:
    """What a collection removes, or has removed.

    Attributes
    ----------
    runs, objects
        Directories of runs beyond the policy, and of objects that no remaining run refers to.
    unfinished
        Directories of external models' fits that were ended and not gone on with.
    n_bytes
        Their size.
    looked_at
        Time of the look, in seconds since 1970: what a run takes up later stays.
    """

    runs: tuple[Path, ...]
    objects: tuple[Path, ...]
    n_bytes: int
    looked_at: float = float("inf")
    unfinished: tuple[Path, ...] = ()


def find_own_run(store: ArtifactStore, name: str) -> Path:
    """Return a run of this store by id, unique prefix or path, complete or not.

    Raises
    ------
    StoreError
        If none or several match, or the path is elsewhere.
    """
    path = Path(name)
    if path.is_dir() and path.resolve().parent == store.runs.resolve():
        name = path.resolve().name
    runs = store.run_like()
    hits = [p for p in runs if p.name == name] or [p for p in runs if p.name.startswith(name)]
    if len(hits) == 1 and name:
        return hits[0]
    found = "no run" if not hits else f"{len(hits)} runs"
    msg = f"{found} in {store.runs} match {name!r}; give the id of a run or a longer prefix (see `perturbfm runs list`)"
    raise StoreError(msg)


def remove_run(store: ArtifactStore, path: Path) -> None:
    """Remove a run directory in one step, and its tags."""
    with store.stage() as staging:
        # Out of sight at once; the staging folder then disappears with it.
        path.rename(staging.path / path.name)
    forget_run(store, path.name)
    forget_request(store, path.name)
    if path.name in run_tags(store):
        tag_run(store, path.name, (), run_tags(store)[path.name])


def find_garbage(store: ArtifactStore, *, keep: int | None = None, min_age_s: float = 86_400.0) -> Garbage:
    """Return the runs beyond the newest `keep` of each configuration, and the objects that no other run needs.

    Tagged runs, and runs that cannot be read, are kept; while one cannot be read, so is every object.

    Parameters
    ----------
    store
        The store.
    keep
        Number of runs that stay of each split, entry, configuration with seed, and data; all by default.
    min_age_s
        Objects made or last reused within this many seconds are kept: a run that is being made may need them.
    """
    looked_at = time.time()
    records, unreadable = _records(store)
    extra = set() if keep is None else set(_beyond(store, records, keep))
    needed = {key for path, record in records.items() if path not in extra for key in _keys(record)}
    objects = []
    for path in [] if unreadable else sorted(store.objects.glob("*/*")):
        # Another collection may remove it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            young = time.time() - path.stat().st_mtime < min_age_s
            if path.name not in needed and not young and any((path / n).is_file() for n in _OF_A_RUN):
                objects.append(path)
    runs = tuple(sorted(extra))
    unfinished = tuple(
        p for p in sorted(store.external_work.glob("*")) if looked_at - _last_written(p) >= min_age_s
    )
    n_bytes = sum(size_of(p) for p in (*runs, *objects, *unfinished))
    return Garbage(runs, tuple(objects), n_bytes, looked_at, unfinished)


def collect_garbage(store: ArtifactStore, garbage: Garbage) -> None:
    """Remove what `find_garbage` found."""
    for path in garbage.runs:
        # Another collection may have removed it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            remove_run(store, path)
    for path in garbage.objects:
        with contextlib.suppress(FileNotFoundError), store.stage() as staging:
            if path.stat().st_mtime <= garbage.looked_at:
                path.rename(staging.path / path.name)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    for path in garbage.unfinished:
        with store.lock(f"external-{path.name}", wait=False) as free, store.stage() as staging:
            if free and _last_written(path) <= garbage.looked_at:
                path.rename(staging.path / path.name)


def _records(store: ArtifactStore) -> tuple[dict[Path, RunRecord], list[Path]]:
    """Return the records of all complete runs, and the directories that have none that can be read."""
    records, unreadable = {}, []
    for path in store.run_like():
        try:
            records[path] = read_run_record(path)
        except StoreError:
            unreadable.append(path)
    return records, unreadable


def _beyond(store: ArtifactStore, records: dict[Path, RunRecord], keep: int) -> Iterator[Path]:
    """Yield the untagged runs beyond the last `keep` of their configuration; damaged ones neither count nor go.

    Parameters
    ----------
    store, records
        The store, and the records of its runs.
    keep
        Number of runs that stay of each configuration: those that were asked for last.
    """
    count: dict[tuple[str, ...], int] = {}
    tagged, times = set(run_tags(store)), request_times(store)
    order = {path: request_order(path.name, r.created, times) for path, r in records.items()}
    for path, r in sorted(records.items(), key=lambda item: order[item[0]], reverse=True):
        if not is_whole(path, r):
            continue
        same = (r.split_hash, r.entry, r.config_hash, r.data_hash)
        count[same] = count.get(same, 0) + 1
        if count[same] > keep and path.name not in tagged:
            yield path


def _keys(record: RunRecord) -> set[str]:
    o = record.objects
    return set() if o is None else {o.model, o.prediction, *o.panels.values()}


def _last_written(path: Path) -> float:
    """Return when a directory or anything below it was last changed, in seconds since 1970; 0 where it is gone."""
    times = [0.0]
    for place, _, names in os.walk(path):
        for name in (".", *names):
            with contextlib.suppress(FileNotFoundError):
                times.append((Path(place) / name).lstat().st_mtime)
    return max(times)


def size_of(path: Path) -> int:
    """Return the bytes of all files below a directory, without those that are removed meanwhile."""
    sizes = []
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes.append((Path(folder) / name).lstat().st_size)
    return sum(sizes)
