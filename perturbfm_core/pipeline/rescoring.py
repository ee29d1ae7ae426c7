"""Runs scored again by the metrics that there are now: fit and prediction stay, and a new run names the one it comes from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perturbfm_core import schema
from perturbfm_core.config import content_hash, parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.errors import PerturbFMError, StoreError
from perturbfm_core.evaluation.panel import PANELS
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.leaderboard.run_list import ListedRun, RunFilter, list_runs
from perturbfm_core.pipeline.dataset import dataset_of, find_dataset
from perturbfm_core.pipeline.experiment import Experiment, ModelConfig
from perturbfm_core.pipeline.metric_panel import score, scoring_code
from perturbfm_core.pipeline.report import described_fitted, publish, strata_key
from perturbfm_core.pipeline.rescoring_external import rescore_submission
from perturbfm_core.pipeline.run_objects import fit_of, panel_of, prediction_of
from perturbfm_core.pipeline.split import stats_with_bounds
from perturbfm_core.progress import Progress, quiet
from perturbfm_core.schema import DEFAULT_GENERATOR
from perturbfm_core.splits.folder import SplitFolder
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import ObjectKeys, RunRecord, is_whole, read_run_record
from perturbfm_core.store.run_requests import put_request, request_order, request_times


@dataclass(frozen=True)
class Rescored:
    """What became of a run.

    Attributes
    ----------
    run, state
        The run, and whether there is a new one, nothing to do, or a reason against it.
    new
        The new run, None without one.
    reason
        Why there is none.
    """

    run: str
    state: Literal["rescored", "up to date", "refused"]
    new: Path | None = None
    reason: str | None = None


def runs_to_rescore(store: ArtifactStore, names: Collection[str] | None) -> list[ListedRun]:
    """Return the named runs, or the newest of each configuration.

    Raises
    ------
    StoreError
        If a named one is none, or is not the newest of its configuration: scored anew it would take that one's place.
    """
    runs, _ = list_runs(store, RunFilter())
    if names is None:
        return [run for run in reversed(runs) if run.is_current]
    by_path = {run.path.resolve(): run for run in runs}
    out = []
    for name in names:
        run = by_path.get(store.find_run(name).resolve())
        if run is None:
            msg = f"run {name!r} is not in {store.runs}; give the id of a run (see `perturbfm runs list`)"
            raise StoreError(msg)
        if not run.is_current:
            newer = next(r for r in runs if r.is_current and _same(r.record) == _same(run.record))
            msg = f"run {run.record.run_id} is not the newest of its configuration, whose place it would take; rescore {newer.record.run_id}"
            raise StoreError(msg)
        out.append(run)
    return out


def _same(record: RunRecord) -> tuple[str, ...]:
    return (record.split_hash, record.entry, record.config_hash, record.data_hash)


def rescore(
    store: ArtifactStore, run: Path, panels: Collection[str] | None = None, tell: Progress = quiet
) -> Rescored:
    """Publish a run's prediction with new scores, if code or metrics have changed since; nothing is fitted.

    Parameters
    ----------
    store
        The store of the run, its split and its data set.
    run
        The run directory.
    panels
        The only panels that are scored anew; by default all.
    tell
        Called with a line of text about progress.
    """
    try:
        record = read_run_record(run)
        _require_whole(run, record)
        split = SplitFolder(store.split_dir).load(record.split_hash)
        ds = dataset_of(store, split, find_dataset(store, split) or _where_it_lay(record))
        split.check_dataset(ds)
        if record.submission is not None or record.family == "external":
            new = rescore_submission(store, ds, split, run, record, panels, tell)
        else:
            new = _rescore_fitted(store, ds, split, run, record, panels, tell)
    except PerturbFMError as error:
        return Rescored(run.name, "refused", reason=" ".join(str(error).split()))
    if new is None:
        return Rescored(run.name, "up to date")
    # It takes the place of the run that it comes from, which may be that of a configuration of earlier.
    put_request(store, new.name, request_order(record.run_id, record.created, request_times(store))[0])
    return Rescored(run.name, "rescored", new=new)


def _require_whole(run: Path, record: RunRecord) -> None:
    if not is_whole(run, record):
        msg = "a file of it is missing or was changed since it was published; make the run again"
        raise StoreError(msg)


def _where_it_lay(record: RunRecord) -> Path | None:
    """Return the directory that a run read its data from, None if there is no data set any more."""
    path = Path(record.dataset.path or "")
    return path if record.dataset.path and (path / schema.META_FILE).is_file() else None


def _rescore_fitted(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    run: Path,
    record: RunRecord,
    panels: Collection[str] | None,
    tell: Progress,
) -> Path | None:
    """Publish a fitted run anew, None if its scores are those of the code that there is now."""
    keys = record.objects
    if keys is None:
        msg = "an earlier version of the program made it, which kept no keys of its fit and prediction; run its entry again"
        raise StoreError(msg)
    e = _experiment(store, ds, split, record, tell)
    if record.code.get("metric_panel") == content_hash(scoring_code()) and keys.strata == strata_key(e):
        return None
    with store.lock(f"run-{e.name}", what=f"the report of {e.name}", tell=tell):
        fitted, predicted = fit_of(store, run, record, keys), prediction_of(store, run, record, keys)
        kept = {name: panel_of(store, run, keys, name) for name in PANELS if panels and name not in panels}
        scored = score(e, fitted, predicted, kept)
        found = {name: artifact.key for name, artifact in scored.panels.items()}
        if panels and found == keys.panels:
            return None
        new = record.model_copy(
            update={
                **described_fitted(e, scored.comparison),
                "objects": ObjectKeys(
                    model=keys.model,
                    prediction=keys.prediction,
                    scores=scored.key,
                    strata=strata_key(e),
                    panels=found,
                ),
                "code": {**record.code, "metric_panel": scored.code},
                "parent_run": record.run_id,
                "rescored_from": record.run_id,
                "files": {},
            }
        )
        return publish(e, new, fitted, predicted, scored)


def _experiment(
    store: ArtifactStore, ds: PerturbDataset, split: FrozenSplit, record: RunRecord, tell: Progress
) -> Experiment:
    """Return the experiment of a run as its record has it; its model is not made again."""
    given: dict[str, Any] = {
        name: getattr(record, name) for name in ("entry", "model", "params", "seed", "uncertainty", "tuned")
    }
    if record.generator is not None:
        given["generator"] = record.generator.get("counts", DEFAULT_GENERATOR)
    config = parse(ModelConfig, given, f"configuration of run {record.run_id}")
    if config.config_hash != record.config_hash:
        msg = "its configuration reads otherwise now, so that its identity would be another; run its entry again"
        raise StoreError(msg)
    # What the model read beside its train rows is in the fit.
    return Experiment(store, ds, split, config, SideInfo(), lambda: stats_with_bounds(store, ds, split), tell)
