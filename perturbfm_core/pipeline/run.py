"""The chain of stages: one experiment from fit to published run, an entry with all its seeds."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.metric_panel import score
from perturbfm_core.pipeline.opening import open_experiments
from perturbfm_core.pipeline.prediction import predict
from perturbfm_core.pipeline.report import asked_again, report
from perturbfm_core.pipeline.trained_model import fit
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore


def run(e: Experiment, *, again: bool = False) -> Path:
    """Fit, predict, score and report an experiment, or find the run that was made of the same inputs and code.

    Parameters
    ----------
    e
        The experiment.
    again
        Whether a new run is published though there is one; its fit, prediction and scores are found all the same.

    Returns
    -------
    Path
        The run directory.

    Raises
    ------
    SplitError
        If the split is of other data, or the audit blocks it: such a run is not found either.
    """
    _ = e.findings
    if not again and (found := asked_again(e)) is not None:
        return found
    fitted = fit(e)
    predicted = predict(e, fitted)
    scored = score(e, fitted, predicted)
    return report(e, fitted, predicted, scored, again=again)


def run_entry(
    store: ArtifactStore,
    split: str | FrozenSplit,
    entry: ModelEntry,
    *,
    data: Path | PerturbDataset | None = None,
    again: bool = False,
    tell: Progress = quiet,
) -> list[Path]:
    """Run an entry with all its seeds on a split, without any scheduler; return the run directories.

    Parameters are those of `open_experiments` and `run`.

    Raises
    ------
    SplitError
        If the entry is not applicable to the split.
    """
    return [run(e, again=again) for e in open_experiments(store, split, entry, data=data, tell=tell)]
