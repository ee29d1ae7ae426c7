"""What worker processes do with a cell in tests of them: nothing, an error, a full disk, their own end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from perturbfm_core.errors import DiskError, ModelError
from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.progress import Progress
from perturbfm_core.store.artifacts import ArtifactStore


def pretend(store: ArtifactStore, cell: SuiteCell, again: bool, tell: Progress) -> Path:
    """Do what the name of the entry says, and return a directory named after it."""
    tell(f"doing {cell.entry}")
    if cell.entry.startswith("raises"):
        message = "nothing to fit on"
        raise ModelError(message)
    if cell.entry.startswith("faulty"):
        message = "a fault"
        raise ZeroDivisionError(message)
    if cell.entry.startswith("full"):
        message = "no space left"
        raise DiskError(message)
    if cell.entry.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.entry.startswith("sleeps"):
        time.sleep(600)
    return store.runs / f"{cell.entry}-{os.environ['PERTURBFM_MAX_TRAIN']}-{again}"
