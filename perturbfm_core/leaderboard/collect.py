"""Table of all complete runs of a store, with the marks of the current ones, and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow.lib import ArrowException

from perturbfm_core import schema
from perturbfm_core.config import content_hash
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.columns import Columns, typed
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord, read_run_record


@dataclass(frozen=True, eq=False)
class Runs:
    """All complete runs.

    Attributes
    ----------
    table
        Table of `RUN_COLUMNS`, one row per run, oldest first. `is_current` marks the newest run of each split, entry,
        configuration with seed, and data. A further column `dataset_record` describes the data set and is not part
        of the database.
    scores
        Long table of `SCORE_COLUMNS` with all scores of the current runs, and the global scores of older ones.
    skipped
        {name of a directory: why it is no run that can be read}.
    """

    table: pd.DataFrame
    scores: pd.DataFrame
    skipped: Mapping[str, str] = field(default_factory=dict)


# Scores on inner folds, by which entries are chosen without looking at test.
INNER_METRICS = ("pearson", "pearson_centered")

RUN_COLUMNS: Columns = {
    "run_id": "text",
    "created": "text",
    "dataset": "text",
    "data_sha256": "text",
    "split_hash": "text",
    "split_key": "text",
    "split_kind": "text",
    "entry": "text",
    "model": "text",
    "family": "text",
    "seed": "int",
    "config_hash": "text",
    "entry_hash": "text",
    "code": "text",
    "git_commit": "text",
    "no_signal": "bool",
    "shared_control": "bool",
    "alignment": "text",
    "fit_seconds": "float",
    "inner_pearson": "float",
    "inner_pearson_centered": "float",
    "parent_run": "text",
    "file_sha256": "text",
    "note": "text",
    "url": "text",
    "path": "text",
    "is_current": "bool",
}

# Directories that were skipped, with the reason.
SKIPPED_COLUMNS: Columns = {"run": "text", "reason": "text"}

SCORE_COLUMNS: Columns = {
    **dict.fromkeys(schema.SCORE_COLUMNS, "text"),
    "seed": "int",
    "value": "float",
    "n": "int",
}


def collect(store: ArtifactStore) -> Runs:
    """Read ``config.json`` and ``scores.parquet`` of every run; one that cannot be read is skipped and named.

    Of each split, entry, configuration with seed, and data, the newest run is the current one.
    """
    rows: list[dict[str, Any]] = []
    frames: dict[str, pd.DataFrame] = {}
    skipped: dict[str, str] = {}
    for path in store.run_like():
        try:
            record, frame = _read(path)
        except (StoreError, OSError) as error:
            skipped[path.name] = " ".join(str(error).split())
            continue
        if any(row["run_id"] == record.run_id for row in rows):
            skipped[path.name] = f"it is a copy of run {record.run_id}; remove the copy"
            continue
        rows.append(_row(record, str(path)))
        frames[str(path)] = frame
    table = pd.DataFrame(rows, columns=[*RUN_COLUMNS, "dataset_record"])
    if table.empty:
        return Runs(table, pd.DataFrame(columns=list(schema.SCORE_COLUMNS)), skipped)
    table = table.sort_values(["created", "run_id"], kind="stable", ignore_index=True)
    # Missing where the data allow no ceiling, so that the presence of a signal is unknown.
    table["no_signal"] = table["no_signal"].astype("boolean")
    same = ["split_hash", "entry", "config_hash", "data_sha256"]
    table["is_current"] = ~table.duplicated(same, keep="last")
    parts = []
    for row in table.itertuples(index=False):
        frame = frames[row.path]
        parts.append(frame if row.is_current else frame[frame["scope"] == "global"])
    return Runs(table, pd.concat(parts, ignore_index=True)[list(schema.SCORE_COLUMNS)], skipped)


def _read(path: Path) -> tuple[RunRecord, pd.DataFrame]:
    """Return the record and the scores of a run directory.

    Raises
    ------
    StoreError
        If a file is missing, cannot be read, or is not that of a run.
    """
    missing = [name for name in schema.RUN_FILES if not (path / name).is_file()]
    if missing:
        msg = f"{path} is not whole: it lacks {', '.join(missing)}; remove the run or make it again"
        raise StoreError(msg)
    record, file = read_run_record(path), path / schema.SCORES_FILE
    again = "remove the run or make it again"
    try:
        frame = pd.read_parquet(file)
        lacking = [c for c in schema.SCORE_COLUMNS if c not in frame]
        if not lacking:
            # What the database could not hold later is refused here, where the run is known.
            typed(frame[list(schema.SCORE_COLUMNS)], SCORE_COLUMNS)
    except (OSError, ValueError, TypeError, KeyError, ArrowException) as error:
        msg = f"{file} cannot be read ({' '.join(str(error).split())[:100]}); {again}"
        raise StoreError(msg) from error
    if lacking:
        msg = f"{file} lacks the columns {lacking}; {again}"
        raise StoreError(msg)
    others = set(frame["run_id"]) - {record.run_id}
    if frame.empty or others:
        msg = f"{file} holds {f'scores of run {others.pop()}' if others else 'no score'}; {again}"
        raise StoreError(msg)
    return record, frame


def _row(record: RunRecord, path: str) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "created": record.created,
        "dataset": record.dataset.name,
        "data_sha256": record.data_hash,
        "split_hash": record.split_hash,
        "split_key": record.split.key,
        "split_kind": record.split.kind,
        "entry": record.entry,
        "model": record.model,
        "family": record.family,
        "seed": record.seed,
        "config_hash": record.config_hash,
        "entry_hash": record.entry_hash,
        "code": content_hash(record.code),
        "git_commit": record.environment.get("git_commit"),
        "no_signal": record.flags.no_signal,
        "shared_control": record.flags.shared_control,
        "alignment": record.alignment,
        "fit_seconds": record.timings.get("fit_s"),
        **{f"inner_{name}": record.inner_folds.get(name) for name in INNER_METRICS},
        "parent_run": record.parent_run,
        # Of a prediction made elsewhere.
        "file_sha256": getattr(record.submission, "sha256", None),
        "note": getattr(record.submission, "note", None),
        "url": getattr(record.submission, "url", None),
        "path": path,
        "is_current": False,
        "dataset_record": record.dataset,
    }
