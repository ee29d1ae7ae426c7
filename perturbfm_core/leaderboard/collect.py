"""Table of all complete runs of a store, with the marks of the current ones, and their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import content_hash
from perturbfm_core.errors import StoreError
from perturbfm_core.leaderboard.columns import Columns
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
    """

    table: pd.DataFrame
    scores: pd.DataFrame


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
    "path": "text",
    "is_current": "bool",
}

SCORE_COLUMNS: Columns = {
    **dict.fromkeys(schema.SCORE_COLUMNS, "text"),
    "seed": "int",
    "value": "float",
    "n": "int",
}


def collect(store: ArtifactStore) -> Runs:
    """Read ``config.json`` and ``scores.parquet`` of every complete run.

    Of each split, entry, configuration with seed, and data, the newest run is the current one.

    Raises
    ------
    StoreError
        If a complete run's files cannot be read.
    """
    configs = [_row(read_run_record(path), str(path)) for path in store.run_dirs()]
    table = pd.DataFrame(configs, columns=[*RUN_COLUMNS, "dataset_record"])
    if table.empty:
        return Runs(table, pd.DataFrame(columns=list(schema.SCORE_COLUMNS)))
    table = table.sort_values(["created", "run_id"], kind="stable", ignore_index=True)
    # Missing where the data allow no ceiling, so that the presence of a signal is unknown.
    table["no_signal"] = table["no_signal"].astype("boolean")
    same = ["split_hash", "entry", "config_hash", "data_sha256"]
    table["is_current"] = ~table.duplicated(same, keep="last")
    frames = []
    for row in table.itertuples(index=False):
        frame = _read_scores(f"{row.path}/{schema.SCORES_FILE}")
        frames.append(frame if row.is_current else frame[frame["scope"] == "global"])
    return Runs(table, pd.concat(frames, ignore_index=True)[list(schema.SCORE_COLUMNS)])


def _read_scores(path: str) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        msg = (
            f"{path} cannot be read ({' '.join(str(error).split())[:100]}); remove the run or score it again"
        )
        raise StoreError(msg) from error
    missing = [c for c in schema.SCORE_COLUMNS if c not in frame]
    if missing:
        msg = f"{path} lacks the columns {missing}; remove the run or score it again"
        raise StoreError(msg)
    return frame


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
        "path": path,
        "is_current": False,
        "dataset_record": record.dataset,
    }
