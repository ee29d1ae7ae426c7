"""Reading the complete runs of a store, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.store import ArtifactStore, read_json


@dataclass(frozen=True, eq=False)
class Runs:
    """All complete runs.

    Attributes
    ----------
    table
        One row per run, oldest first; `is_current` marks the newest of its cell, seed and data.
    scores
        Long table of `schema.SCORE_COLUMNS` with everything of the current runs, and global values of older ones.
    """

    table: pd.DataFrame
    scores: pd.DataFrame


# Scores on inner folds, by which one entry may be chosen over another without a look at test.
INNER_METRICS = ("pearson", "pearson_centered")

RUN_COLUMNS = (
    "run_id",
    "created",
    "dataset",
    "data_sha256",
    "split_hash",
    "split_key",
    "split_kind",
    "entry",
    "model",
    "family",
    "seed",
    "config_hash",
    "entry_hash",
    "code",
    "git_commit",
    "no_signal",
    "shared_control",
    "alignment",
    "fit_seconds",
    "inner_pearson",
    "inner_pearson_centered",
    "parent_run",
    "path",
    "is_current",
)


def collect(store: ArtifactStore) -> Runs:
    """Read ``config.json`` and ``scores.parquet`` of every complete run.

    The newest run counts per (split, entry, config hash with seed, data hash).

    Raises
    ------
    StoreError
        If a complete run's files cannot be read.
    """
    configs = []
    for path in store.run_dirs():
        config = read_json(path / schema.CONFIG_FILE)
        configs.append(_row(config, str(path)))
    table = pd.DataFrame(configs, columns=list(RUN_COLUMNS))
    if table.empty:
        return Runs(table, pd.DataFrame(columns=list(schema.SCORE_COLUMNS)))
    table = table.sort_values(["created", "run_id"], kind="stable", ignore_index=True)
    # Unknown where the data allow no ceiling: neither a signal nor its absence.
    table["no_signal"] = table["no_signal"].astype("boolean")
    cell = ["split_hash", "entry", "config_hash", "data_sha256"]
    table["is_current"] = ~table.duplicated(cell, keep="last")
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


def _row(config: dict[str, Any], path: str) -> dict[str, Any]:
    environment = config.get("environment", {})
    return {
        "run_id": config["run_id"],
        "created": config["created"],
        "dataset": config["dataset"]["name"],
        "data_sha256": config["dataset"]["content_sha256"],
        "split_hash": config["split"]["hash"],
        "split_key": config["split"]["key"],
        "split_kind": config["split"]["kind"],
        "entry": config["entry"],
        "model": config["model"],
        "family": config["family"],
        "seed": config["seed"],
        "config_hash": config["config_hash"],
        "entry_hash": config["entry_hash"],
        "code": environment.get("code"),
        "git_commit": environment.get("git_commit"),
        "no_signal": config["flags"]["no_signal"],
        "shared_control": config["flags"]["shared_control"],
        "alignment": config["alignment"],
        "fit_seconds": config.get("timings", {}).get("fit_s"),
        **{f"inner_{name}": config.get("inner_folds", {}).get(name) for name in INNER_METRICS},
        "parent_run": config.get("parent_run"),
        "path": path,
        "is_current": False,
    }
