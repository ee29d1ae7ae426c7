"""Failed cells, one file each: why, when, and the traceback; a cell that succeeds later has none."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from perturbfm_core.errors import MissingExtraError, PerturbFMError, StoreError
from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.pipeline.suite_cell import run_name
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json, write_json


@dataclass(frozen=True)
class Failure:
    """Why a cell failed: a line, and the traceback."""

    reason: str
    detail: str


def failure_of(error: BaseException) -> Failure:
    """Return an error as one line with its traceback."""
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, ModuleNotFoundError):
        error = MissingExtraError.of(error)
    text = " ".join(str(error).split()) or "no message"
    expected = isinstance(error, PerturbFMError)
    return Failure(text if expected else f"{type(error).__name__}: {text}", detail)


def keep_failure(store: ArtifactStore, cell: SuiteCell, failure: Failure) -> Path:
    """Write why a cell failed, and return the file.

    Parameters
    ----------
    store
        Where failures are kept.
    cell, failure
        The cell, and why.
    """
    path = _file(store, cell)
    write_json(
        path,
        {
            "cell": cell.label,
            "split_hash": cell.split.hash,
            "entry": cell.entry,
            "seed": cell.seed,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "reason": failure.reason,
            "traceback": failure.detail.splitlines(),
        },
    )
    return path


def forget_failure(store: ArtifactStore, cell: SuiteCell) -> None:
    """Remove what an earlier failure of a cell left."""
    _file(store, cell).unlink(missing_ok=True)


def kept_failure(store: ArtifactStore, cell: SuiteCell) -> str | None:
    """Return why a cell failed when it was run last, None if it did not."""
    path = _file(store, cell)
    if not path.is_file():
        return None
    try:
        return str(read_json(path)["reason"])
    except (StoreError, KeyError, TypeError):
        return f"{path} cannot be read"


def _file(store: ArtifactStore, cell: SuiteCell) -> Path:
    return store.failures / f"{run_name(cell)}.json"
