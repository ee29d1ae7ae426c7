"""The chain of stages: one experiment from fit to published run, an entry with all its seeds, a whole suite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from perturbfm_core.catalog.entries import ModelEntry, SuiteEntry
from perturbfm_core.catalog.loading import load_catalog
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline.dataset import ensure_dataset, open_dataset
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.metric_panel import score
from perturbfm_core.pipeline.opening import open_experiments, why_not
from perturbfm_core.pipeline.prediction import predict
from perturbfm_core.pipeline.report import existing_run, report
from perturbfm_core.pipeline.split import freeze_split
from perturbfm_core.pipeline.trained_model import fit
from perturbfm_core.progress import FOUND, Progress, quiet
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.freeze import freeze
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
    if not again and (found := existing_run(e)) is not None:
        e.tell(f"{FOUND}{found.name}")
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


# ---- suites ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SuiteMember:
    """One entry of a suite on one of its splits.

    Attributes
    ----------
    split, entry
        Hash of the split, name of the entry.
    reason
        Why the entry cannot run on the split, None if it can.
    """

    split: str
    entry: str
    reason: str | None


def suite_splits(store: ArtifactStore, suite: SuiteEntry, tell: Progress = quiet) -> list[str]:
    """Return the hashes of a suite's splits, making data sets and freezing splits that are missing.

    Parameters
    ----------
    store
        Where artifacts lie.
    suite
        The suite.
    tell
        Called with a line of text about progress.
    """
    catalog = load_catalog()
    folder = SplitFolder(store.split_dir)
    hashes = []
    for group in suite.grid:
        ds = open_dataset(ensure_dataset(store, catalog.dataset(group.dataset), tell))
        for spec in group.splits:
            for split in freeze(ds, spec):
                if split.hash not in folder.hashes():
                    freeze_split(store, ds, spec, progress=tell)
                hashes.append(split.hash)
    return hashes


def suite_members(store: ArtifactStore, suite: SuiteEntry, hashes: Iterable[str]) -> list[SuiteMember]:
    """Return the entries of a suite on each of its splits.

    Parameters
    ----------
    store
        Where artifacts lie.
    suite
        The suite.
    hashes
        Hashes of its splits.
    """
    catalog = load_catalog()
    index = {e.hash: e for e in SplitFolder(store.split_dir).index().splits}
    return [
        SuiteMember(h, name, why_not(index[h].traits, catalog.model(name)))
        for h in hashes
        for name in suite.models
    ]
