"""List of runs: what each was made of, in a row, with filters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_index import add_missing
from perturbfm_core.store.run_record import RunRecord, read_run_record
from perturbfm_core.store.run_requests import request_order, request_times
from perturbfm_core.store.run_tags import run_tags


@dataclass(frozen=True)
class RunFilter:
    """Which runs are listed; what is None does not filter.

    Attributes
    ----------
    entry, family, dataset, tag
        Names, each exact.
    split
        A prefix of the split's hash, or a part of its key.
    current
        Only the run that was asked for last of each split, entry, configuration with seed, and data.
    last
        Only this many of the newest.
    """

    entry: str | None = None
    split: str | None = None
    dataset: str | None = None
    family: str | None = None
    tag: str | None = None
    current: bool = False
    last: int | None = None


@dataclass(frozen=True)
class ListedRun:
    """A run of the list.

    Attributes
    ----------
    path, record, tags
        Its directory, its record, and its tags.
    is_current
        Whether it was asked for last of its split, entry, configuration with seed, and data.
    requested
        Its place in the order of requests (see `run_requests`).
    """

    path: Path
    record: RunRecord
    tags: tuple[str, ...]
    is_current: bool
    requested: tuple[str, str, str]

    def value(self, metric: str) -> float | None:
        """Return a global score by PANEL.METRIC, None where it is undefined."""
        panel, _, name = metric.partition(".")
        try:
            found: Any = read_json(self.path / schema.METRICS_FILE)[panel]["global"][name]
        except (StoreError, KeyError, TypeError):
            return None
        return float(found) if isinstance(found, int | float) else None


def list_runs(store: ArtifactStore, wanted: RunFilter | None = None) -> tuple[list[ListedRun], list[str]]:
    """Return (the complete runs that a filter lets pass, newest first; names of those that cannot be read)."""
    wanted = wanted or RunFilter()
    tags, skipped, found = run_tags(store), [], []
    for path in store.run_like():
        try:
            if not all((path / name).is_file() for name in schema.RUN_FILES):
                skipped.append(path.name)
                continue
            found.append((path, read_run_record(path)))
        except StoreError:
            skipped.append(path.name)
    add_missing(store, [path for path, _ in found])
    found.sort(key=lambda item: (item[1].created, item[1].run_id), reverse=True)
    times = request_times(store)
    last: dict[tuple[str, ...], tuple[str, str, str]] = {}
    order = {path: request_order(r.run_id, r.created, times) for path, r in found}
    for path, r in found:
        last[_same(r)] = max(last.get(_same(r), order[path]), order[path])
    out = []
    for path, r in found:
        run = ListedRun(path, r, tags.get(path.name, ()), order[path] == last[_same(r)], order[path])
        if _passes(run, wanted):
            out.append(run)
    return out if wanted.last is None else out[: wanted.last], skipped


def _same(r: RunRecord) -> tuple[str, ...]:
    return (r.split_hash, r.entry, r.config_hash, r.data_hash)


def _passes(run: ListedRun, wanted: RunFilter) -> bool:
    r = run.record
    pairs = ((wanted.entry, r.entry), (wanted.family, r.family), (wanted.dataset, r.dataset.name))
    return (
        all(asked is None or asked == found for asked, found in pairs)
        and (wanted.tag is None or wanted.tag in run.tags)
        and (wanted.split is None or r.split_hash.startswith(wanted.split) or wanted.split in r.split.key)
        and (run.is_current or not wanted.current)
    )
