"""Rows of the table of runs: what ``config.json`` says of a run, in columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perturbfm_core.config import content_hash
from perturbfm_core.leaderboard.columns import Columns
from perturbfm_core.leaderboard.run_cost import RunCost, run_cost
from perturbfm_core.store.run_record import RunRecord

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
    "board": "text",
    "counted": "bool",
    "tags": "text",
    "predict_seconds": "float",
    "cpu_seconds": "float",
    "peak_memory_mb": "float",
    "n_parameters": "int",
    "uses_other_screens": "bool",
    "warned_of": "text",
}
# Known only among all runs, and not kept with what was read of one.
SHARED_COLUMNS = ("is_current", "board", "counted", "tags")


def run_row(record: RunRecord, path: Path) -> dict[str, Any]:
    """Return the row of a run, but for `SHARED_COLUMNS`, with its data set's record under ``dataset_record``."""
    timings, machine, cost = record.timings, record.environment, _cost(record, path)
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
        "git_commit": machine.get("git_commit"),
        "no_signal": record.flags.no_signal,
        "shared_control": record.flags.shared_control,
        "alignment": record.alignment,
        "fit_seconds": timings.get("fit_s"),
        **{f"inner_{name}": record.inner_folds.get(name) for name in INNER_METRICS},
        "parent_run": record.parent_run,
        # Of a prediction made elsewhere.
        "file_sha256": getattr(record.submission, "sha256", None),
        "note": getattr(record.submission, "note", None),
        "url": getattr(record.submission, "url", None),
        "path": str(path),
        "predict_seconds": timings.get("predict_s"),
        "cpu_seconds": cost.cpu_s,
        "peak_memory_mb": None if cost.peak_bytes is None else cost.peak_bytes / 1e6,
        "n_parameters": cost.parameters,
        "uses_other_screens": record.uses_other_screens,
        "warned_of": "; ".join(map(str, record.notes.get("warnings") or ())) or None,
        "dataset_record": record.dataset.model_dump(mode="json"),
    }


def _cost(record: RunRecord, path: Path) -> RunCost:
    try:
        return run_cost(path, record)
    except (KeyError, TypeError, ValueError):
        # A damaged model file changes no score.
        return RunCost()
