"""One cell of a suite: its configuration, the name of its runs, and its way from fit to published run."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.pipeline.experiment import ModelConfig, model_configs
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.pipeline.suite import SuiteCell
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.store.artifacts import ArtifactStore


def config_of(cell: SuiteCell) -> ModelConfig:
    """Return the resolved configuration of a cell."""
    entry = load_catalog().model(cell.entry).model_copy(update={"seeds": (cell.seed,)})
    return model_configs(entry)[0]


def run_name(cell: SuiteCell) -> str:
    """Return what the runs of a cell are called, but for their time."""
    return f"{(cell.split.hash or '')[:7]}_{cell.entry}_{config_of(cell).config_hash[:8]}"


def run_cell(store: ArtifactStore, cell: SuiteCell, again: bool = False, tell: Progress = quiet) -> Path:
    """Run one cell from fit to published run, and return the run directory.

    Parameters
    ----------
    store
        Where artifacts lie.
    cell
        The cell.
    again
        Whether a new run is published though there is one.
    tell
        Called with a line of text about progress.
    """
    entry = load_catalog().model(cell.entry).model_copy(update={"seeds": (cell.seed,)})
    return run_entry(store, str(cell.split.hash), entry, again=again, tell=tell)[0]
