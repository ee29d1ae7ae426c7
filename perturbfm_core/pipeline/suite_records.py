"""A submitted task's side: its cells, and what it writes of itself."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from perturbfm_core.errors import StoreError
from perturbfm_core.pipeline.suite import SuiteCell, SuiteSplit
from perturbfm_core.pipeline.suite_fields import damaged, read_fields, shown
from perturbfm_core.pipeline.suite_jobs import CellKey, Submission
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import write_json
from perturbfm_core.store.owner import host_name, this_boot

_STATES = ("running", "ended", "interrupted")


def cells_of(store: ArtifactStore, keys: Sequence[CellKey]) -> list[SuiteCell]:
    """Return the cells of a task by the index of the splits; no data set is opened.

    Raises
    ------
    StoreError
        If a split is not there any more.
    """
    index = {entry.hash: entry for entry in SplitFolder(store.split_dir).index().splits}
    out = []
    for split, name, seed in keys:
        entry = index.get(split)
        if entry is None:
            msg = f"split {split[:12]} of this task is not in {store.split_dir}; submit the suite again"
            raise StoreError(msg)
        found = SuiteSplit(entry.dataset, entry.kind, entry.key, entry.board, split, entry, is_frozen=True)
        out.append(SuiteCell(found, name, seed, None))
    return out


def keep_record(submission: Submission, index: int, state: str, **more: Any) -> None:
    """Write what a task, which is this process, is doing or has done.

    Parameters
    ----------
    submission, index
        The task.
    state
        ``running``, ``ended`` or ``interrupted``.
    more
        Further fields.
    """
    who = {"host": host_name(), "boot": this_boot(), "pid": os.getpid(), "time": time.time()}
    write_json(submission.record_file(index), {"state": state, **who, **more})


def read_record(made: Submission, index: int) -> dict[str, Any]:
    """Return what a task wrote of itself, empty if it has not begun.

    Of a damaged record there is only field ``damaged``, which says so: Slurm, or this host, still knows of the task,
    and its cells have their runs.
    """
    path = made.record_file(index)
    if not path.is_file():
        return {}
    cure = "remove this file"
    try:
        found = read_fields(path, cure)
        if (wrong := _wrong(found)) is not None:
            raise damaged(path, wrong, cure)
    except StoreError as error:
        return {"damaged": str(error)}
    return found


def _wrong(found: Mapping[str, Any]) -> str | None:
    """Return which field of a task's record is not as it was written, None if all are."""
    if found.get("state") not in _STATES:
        return f"state is {shown(found.get('state'))}, none of: {', '.join(_STATES)}"
    for kind, names in (
        ((str, type(None)), ("job", "host")),
        ((int, type(None)), ("made", "found", "failed")),
    ):
        for name in names:
            if not isinstance(found.get(name), kind):
                return f"{name} is {shown(found[name])}"
    return None
