"""Complete runs of a store, with the marks of the current ones: those known from before, and those that are new."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.columns import Columns
from perturbfm_core.leaderboard.known_runs import KnownRun, read_known, unchanged
from perturbfm_core.leaderboard.run_marks import mark_current
from perturbfm_core.leaderboard.run_rows import RUN_COLUMNS, SHARED_COLUMNS
from perturbfm_core.leaderboard.score_file import read_scores
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_index import add_missing
from perturbfm_core.store.run_record import DatasetRecord
from perturbfm_core.store.run_requests import request_times

# What was skipped: a run directory, the file of tags or a data set, as `kind` says; with the reason.
SKIPPED_COLUMNS: Columns = {"run": "text", "kind": "text", "reason": "text"}


@dataclass(eq=False)
class FoundRuns:
    """Run directories of a store.

    Attributes
    ----------
    known
        {name of a directory: what was read of it}, in the order of the names.
    skipped
        {name of a directory: why it is no run that can be read}.
    requested
        {run: when it was asked for last} (see `run_requests`).
    """

    known: dict[str, KnownRun]
    skipped: dict[str, str]
    requested: Mapping[str, str] = field(default_factory=dict)

    def skip(self, folder: str, error: Exception) -> None:
        """Leave out a directory that turned out not to be readable."""
        del self.known[folder]
        self.skipped[folder] = " ".join(str(error).split())

    def table(self) -> tuple[pd.DataFrame, dict[str, str]]:
        """Return (the runs, oldest first, with the mark of the current ones; {copy of a run: the reason to skip it})."""
        rows, copies, seen = [], {}, set()
        for folder, known in self.known.items():
            run_id = known.row["run_id"]
            if run_id in seen:
                copies[folder] = f"it is a copy of run {run_id}; remove the copy"
                continue
            seen.add(run_id)
            record = DatasetRecord.model_validate(known.row["dataset_record"])
            rows.append({**known.row, "dataset_record": record, "folder": folder})
        own = [c for c in RUN_COLUMNS if c not in SHARED_COLUMNS]
        frame = pd.DataFrame(rows, columns=[*own, "dataset_record", "folder"])
        return mark_current(frame, self.requested), copies


def find_runs(store: ArtifactStore, earlier: Mapping[str, KnownRun] | None = None) -> FoundRuns:
    """Return the run directories of a store; of those that are as they were, what was read before.

    Parameters
    ----------
    store
        The store.
    earlier
        {name of a directory: what was read of it before}.
    """
    found = FoundRuns({}, {}, request_times(store))
    for path in store.run_like():
        try:
            before = (earlier or {}).get(path.name)
            same = None if before is None else unchanged(path, before)
            found.known[path.name] = read_known(path) if same is None else same
        except (StoreError, OSError) as error:
            found.skipped[path.name] = " ".join(str(error).split())
    add_missing(store, [store.runs / name for name in found.known if name not in (earlier or {})])
    return found


def read_run_scores(path: Path, known: KnownRun) -> tuple[KnownRun, pa.Table, bytes]:
    """Return (what is known of a run, with the digest of its scores; the scores; the file that they are in).

    Raises
    ------
    StoreError
        If they cannot be read.
    """
    file = path / schema.SCORES_FILE
    # Read once, so that the digest is that of what was understood.
    content = file.read_bytes()
    scores = read_scores(file, known.row["run_id"], content)
    return replace(known, scores_digest=hashlib.sha256(content).hexdigest()), scores, content
