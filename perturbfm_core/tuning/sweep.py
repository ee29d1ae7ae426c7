"""Sweeps: a declared grid of an entry's parameters, selected on validation; test scores of finalists only, each logged."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import DiskError, ModelError, PerturbFMError, StoreError
from perturbfm_core.pipeline.dataset import dataset_of
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.pipeline.run import run_entry
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.splits.audit.core import require_clean
from perturbfm_core.splits.folder import SplitFolder, traits_of
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.tuning.identity import identity_of
from perturbfm_core.tuning.sweep_folder import SweepFolder, SweepScore
from perturbfm_core.tuning.sweep_grid import SweepCell
from perturbfm_core.tuning.validation import Validation
from perturbfm_core.tuning.workers import Job, Score, WorkerLostError, check_jobs, scorer


@dataclass(frozen=True)
class Sweep:
    """A sweep that was carried out.

    Attributes
    ----------
    folder
        Where it is kept.
    ranked
        Complete configurations, from the best on validation.
    revealed
        {identity of a configuration: its run directories} of the finalists.
    """

    folder: SweepFolder
    ranked: Sequence[SweepScore]
    revealed: dict[str, list[Path]]


def run_sweep(
    store: ArtifactStore,
    split: str,
    base: ModelEntry,
    cells: Sequence[SweepCell],
    *,
    data: Path | None = None,
    finalists: int = 1,
    name: str | None = None,
    seed: int = 0,
    jobs: int = 1,
    tell: Progress = quiet,
) -> Sweep:
    """Score every configuration on a split's validation, then fit, predict and score the finalists as runs.

    Test rows are read for the finalists only, after a line of the log says so. A call that is repeated finds what was
    scored; a configuration that failed, or whose graphs or features have changed, is scored again.

    Parameters
    ----------
    store
        Store of artifacts and sweeps.
    split
        Hash, prefix or key of the split.
    base
        The entry that the grid departs from.
    cells
        The configurations (`sweep_cells`).
    data
        Directory of the data set, unless the store has it.
    finalists
        How many of the best on validation get test scores; 0 for none.
    name
        Name of the sweep (default: made of its inputs and the version of the code).
    seed
        Seed of every fit on validation; finalists are run with the seeds of the entry.
    jobs
        Configurations at once, each in a process of its own.
    tell
        Called with a line of text about progress.

    Raises
    ------
    SplitError
        If the split has no validation.
    ModelError
        If no configuration can be fitted.
    ConfigError
        If the sweep of this name is of other inputs, or there are more jobs than training slots.
    StoreError
        If another process runs the sweep of this name.
    """
    check_jobs(jobs)
    frozen = SplitFolder(store.split_dir).load(split)
    ds = dataset_of(store, frozen, data)
    require_clean(ds, frozen)
    validation = Validation(store, ds, frozen, base, seed, tell)
    identity = identity_of(base, ds, frozen, seed)
    folder = SweepFolder(store, name or f"{base.name}.{frozen.hash[:7]}.{content_hash(identity)[:8]}")
    with store.lock(f"sweep-{folder.name}", wait=False) as held:
        if not held:
            msg = (
                f"sweep {folder.name!r} is being run by another process; wait for it, or give another --name"
            )
            raise StoreError(msg)
        folder.declare(identity, cells)
        job = Job(store.home, store.split_dir, frozen.hash, data, base, seed)
        _score_all(folder, cells, validation, job, jobs, tell, ds, frozen)
        ranked = ranking(folder)
        if not ranked:
            reason = next((c.reason for c in folder.cells() if c.reason), "nothing was scored")
            msg = f"no configuration of sweep {folder.name!r} could be scored on validation; the first: {reason}"
            raise ModelError(msg)
        by_hash = {cell.config_hash: cell for cell in cells}
        chosen = [score for score in ranked if score.config_hash in by_hash][:finalists]
        revealed = {
            score.config_hash: _reveal(
                store, folder, frozen, ranked, score, by_hash[score.config_hash], data, tell
            )
            for score in chosen
        }
        return Sweep(folder, ranked, revealed)


def ranking(folder: SweepFolder) -> list[SweepScore]:
    """Return the complete configurations of a sweep, best on validation first; of equal ones the first of the grid."""
    complete = [score for score in folder.cells() if score.value is not None]
    return sorted(complete, key=lambda score: -(score.value or 0.0))


def _score_all(
    folder: SweepFolder,
    cells: Sequence[SweepCell],
    validation: Validation,
    job: Job,
    jobs: int,
    tell: Progress,
    ds: PerturbDataset,
    split: FrozenSplit,
) -> None:
    """Score the configurations that are not complete, each written as soon as it is done.

    So are those whose graphs or features were others when they were scored.
    """
    traits, folds = traits_of(split, ds), len(validation)
    reads = {c.config_hash: _reads(validation, c) for c in cells}
    todo = [
        c
        for c in cells
        if (kept := folder.score(c.config_hash)) is None
        or not kept.scores
        or kept.reads != reads[c.config_hash]
    ]

    def one(cell: SweepCell, score: Score) -> SweepScore:
        found = SweepScore(cell.config_hash, cell.entry.name, cell.values, reads=reads[cell.config_hash])
        if (reason := why_not(traits, cell.entry)) is not None:
            return SweepScore(**{**vars(found), "reason": f"not applicable: it {reason}"})
        try:
            scores = tuple(score(cell.entry.params, fold) for fold in range(folds))
        except (WorkerLostError, DiskError):
            raise
        except (PerturbFMError, np.linalg.LinAlgError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            return SweepScore(**{**vars(found), "reason": reason})
        return SweepScore(**{**vars(found), "scores": scores})

    with scorer(validation, job, min(jobs, len(todo))) as score, ThreadPoolExecutor(jobs) as threads:
        run = map if jobs == 1 else threads.map
        for n, found in enumerate(run(lambda cell: one(cell, score), todo), 1):
            folder.keep(found)
            shown = found.reason if found.value is None else f"{found.value:.4f} on validation"
            tell("done:")
            tell(f"configuration {n} of {len(todo)}, {found.entry}: {shown}")


def _reads(validation: Validation, cell: SweepCell) -> dict[str, dict[str, str]]:
    """Return what a configuration reads; nothing where it is missing, which its score then says."""
    try:
        return validation.reads(cell.entry.params)
    except PerturbFMError:
        return {}


def _reveal(
    store: ArtifactStore,
    folder: SweepFolder,
    split: FrozenSplit,
    ranked: Sequence[SweepScore],
    score: SweepScore,
    cell: SweepCell,
    data: Path | None,
    tell: Progress,
) -> list[Path]:
    """Run a finalist; the log says so before any test row is read, whatever happens then."""
    known = {r.config_hash: r for r in folder.reveals()}
    if score.config_hash not in known:
        folder.log(
            "reveal",
            config_hash=score.config_hash,
            entry=score.entry,
            value=score.value,
            rank=[s.config_hash for s in ranked].index(score.config_hash) + 1,
            complete=len(ranked),
        )
    paths = run_entry(store, split, cell.entry, data=data, tell=tell)
    runs = [path.name for path in paths]
    if score.config_hash not in known or known[score.config_hash].runs != runs:
        folder.log("scored", config_hash=score.config_hash, runs=runs)
    return paths
