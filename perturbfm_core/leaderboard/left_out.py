"""Test conditions that a run has no prediction for: their scores are those of the control."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.errors import StoreError
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_record import RunRecord


def left_out(folder: Path, record: RunRecord, keys: Collection[str]) -> set[str]:
    """Return which test conditions a run does not predict.

    Parameters
    ----------
    folder, record
        The run, and its record.
    keys
        Keys of its test conditions.
    """
    file = folder / schema.PREDICTIONS_FILE
    marked, names = _marked(file)
    if marked is not None and names is not None and len(marked) == len(names):
        return {str(name) for name in names[marked]} & set(keys)
    try:
        training = read_json(folder / schema.TRAINING_FILE)
    except StoreError:
        training = None
    # Only the number is known; for a share it does not matter which they are.
    return set(sorted(keys)[: count_left_out(record, training)])


def count_left_out(record: RunRecord, training: Mapping[str, Any] | None) -> int:
    """Return how many test conditions a run does not predict, as its files say.

    Parameters
    ----------
    record
        The record of the run.
    training
        Content of ``training.json``, where a model in an environment of its own says it; None without one.
    """
    handed_in = record.notes.get("missing_as_control")
    if handed_in is not None:
        return int(handed_in)
    found: Any = training
    for name in ("conversion", "counts", "missing"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, int) else 0


def _marked(file: Path) -> tuple[Any, Any]:
    """Return (which rows say that they are no prediction, keys of the rows), without reading the predictions."""
    if not file.is_file():
        return None, None
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            if "not_predicted" not in arrays or "condition" not in arrays:
                return None, None
            return np.asarray(arrays["not_predicted"], dtype=np.bool_), arrays["condition"]
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        # Damaged; the number in the record still counts.
        return None, None
