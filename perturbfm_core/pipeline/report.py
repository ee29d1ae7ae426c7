"""Stage `report`: a scored experiment published as a run directory, complete or not at all, with its HTML report."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow.lib import ArrowException

from perturbfm_core import schema
from perturbfm_core.config import content_hash, parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.errors import StoreError
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.evaluation.comparison import Comparison, compare
from perturbfm_core.evaluation.panel import of_groups
from perturbfm_core.evaluation.prediction_flags import warnings_of
from perturbfm_core.models.base import MODELS
from perturbfm_core.pipeline.dataset import dataset_of, find_dataset
from perturbfm_core.pipeline.experiment import Experiment
from perturbfm_core.pipeline.metric_panel import PanelScores, observed_side, scoring_code
from perturbfm_core.pipeline.prediction import PREDICT_FILE
from perturbfm_core.pipeline.split import stored_stats
from perturbfm_core.pipeline.trained_model import FIT_FILE
from perturbfm_core.progress import FOUND
from perturbfm_core.registry.members import loaded_plugin_digests
from perturbfm_core.reports.pages.run import Beside, run_report
from perturbfm_core.splits.folder import SplitFolder, SplitStats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import Artifact, ArtifactStore
from perturbfm_core.store.atomic import file_digest, read_json, write_atomic, write_json
from perturbfm_core.store.run_index import runs_named
from perturbfm_core.store.run_publication import publish_run
from perturbfm_core.store.run_record import (
    DatasetRecord,
    Flags,
    ObjectKeys,
    RunRecord,
    SplitRecord,
    is_whole,
    read_run_record,
)
from perturbfm_core.store.run_requests import note_request


def existing_run(e: Experiment, among: Sequence[Path] | None = None) -> Path | None:
    """Return the newest whole run of the same data, split, configuration, side information and code; None without one.

    A run whose files are missing, damaged or edited is none, and neither is one that other code or strata scored.

    Parameters
    ----------
    e
        The experiment.
    among
        Complete runs to look among, oldest first, where the caller has listed them (default: those of this name).
    """
    same = (e.keys.model, e.keys.prediction, strata_key(e))
    for path in reversed(runs_named(e.store, e.name) if among is None else among):
        if not _is_of(path, e):
            continue
        with contextlib.suppress(StoreError):
            record = read_run_record(path)
            objects = record.objects
            if (
                objects is not None
                and (objects.model, objects.prediction, objects.strata) == same
                and record.code.get("metric_panel") == content_hash(scoring_code())
                and is_whole(path, record)
            ):
                return path
    return None


def asked_again(e: Experiment) -> Path | None:
    """Return the `existing_run`, which counts from now on as the one that was asked for last; None without one."""
    found = existing_run(e)
    if found is not None:
        note_request(e.store, found)
        e.tell(f"{FOUND}{found.name}")
    return found


def _is_of(path: Path, e: Experiment) -> bool:
    """Return whether a run directory has the name of this experiment's runs."""
    return path.name.partition("_")[2].startswith(e.name)


def strata_key(e: Experiment) -> str:
    """Return the identity of the groups of conditions that are stored beside the split."""
    return content_hash(e.stats.strata)


def report(
    e: Experiment, fitted: Artifact, predicted: Artifact, scored: PanelScores, *, again: bool = False
) -> Path:
    """Publish a scored experiment as a run directory with its report, by one rename, or find that run.

    Parameters
    ----------
    e
        The experiment.
    fitted, predicted, scored
        What the earlier stages returned for it.
    again
        Whether a new run is published though there is one.

    Returns
    -------
    Path
        The run directory.
    """
    # Two processes that report the same experiment at the same time make one run.
    with e.store.lock(f"run-{e.name}", what=f"the report of {e.name}", tell=e.tell):
        if not again and (found := asked_again(e)) is not None:
            return found
        return publish(e, _record(e, fitted, predicted, scored), fitted, predicted, scored)


def publish(
    e: Experiment, record: RunRecord, fitted: Artifact, predicted: Artifact, scored: PanelScores
) -> Path:
    """Publish a new run by one rename, and return its directory; the caller holds the lock of its name.

    Parameters
    ----------
    e, record
        The experiment, and the record of the run but for its id and files.
    fitted, predicted, scored
        What the earlier stages returned for it.
    """
    e.tell(f"writing the report of {e.config.entry}, seed {e.config.seed}")

    def fill(folder: Path, named: RunRecord) -> None:
        _fill(folder, e, named, fitted, predicted, scored)

    return publish_run(e.store, record, fill, external=False)


def _fill(
    folder: Path,
    e: Experiment,
    record: RunRecord,
    fitted: Artifact,
    predicted: Artifact,
    scored: PanelScores,
) -> None:
    """Write every file of a run into a folder.

    Parameters
    ----------
    folder
        The folder.
    e, record
        The experiment, and its record but for the digests of these files.
    fitted, predicted, scored
        What the earlier stages returned for it.
    """
    for source, names in (
        (fitted.path, (schema.MODEL_FILE, schema.MODEL_META_FILE)),
        (fitted.path, (schema.CALIBRATOR_FILE, schema.CALIBRATOR_META_FILE)),
        (predicted.path, (schema.PREDICTIONS_FILE,)),
        (scored.calibration.path, (schema.CALIBRATION_FILE,)),
    ):
        for name in names:
            # A copy: whoever edits a run in place must not change the object that others reuse.
            shutil.copyfile(source / name, folder / name)
    records = read_json(fitted.path / schema.RECORDS_FILE)
    records["predict_reads"] = read_json(predicted.path / PREDICT_FILE)["reads"]
    training = read_json(fitted.path / schema.MODEL_META_FILE)["training"]
    write_json(folder / schema.TRAINING_FILE, training)
    write_json(folder / schema.METRICS_FILE, of_groups(scored.metrics))
    write_atomic(folder / schema.RECORDS_FILE, json.dumps(records))
    write_atomic(folder / schema.SPLIT_HASH_FILE, e.split.hash + "\n")
    named_scores(scored.table, record).to_parquet(folder / schema.SCORES_FILE, index=False)
    calibration = read_json(scored.calibration.path / schema.CALIBRATION_FILE)
    beside = Beside(training, scored.metrics, e.store)
    page = run_report(
        record, scored.table, scored.comparison, e.split.definition, e.stats, calibration, beside
    )
    write_atomic(folder / schema.REPORT_FILE, page)
    files = {p.name: file_digest(p) for p in sorted(folder.iterdir())}
    record.model_copy(update={"files": files}).write(folder)


def report_again(store: ArtifactStore, run: str, data: Path | None = None) -> str:
    """Return the report of a published run made anew, beside the runs that there are now; the run itself stays.

    Parameters
    ----------
    store
        The store of the run, its split and its data set.
    run
        Directory, id or prefix of the id of the run.
    data
        Directory of the data set, unless the store has it or it lies where the run found it.

    Raises
    ------
    StoreError
        If a file of the run is missing or damaged.
    """
    folder = store.find_run(run)
    record = read_run_record(folder)
    split = SplitFolder(store.split_dir).load(record.split_hash)
    if data is None and find_dataset(store, split) is None and record.dataset.path is not None:
        # Where the run found it, if it is still there.
        data = Path(record.dataset.path) if Path(record.dataset.path).is_dir() else None
    ds = dataset_of(store, split, data)
    split.check_dataset(ds)
    try:
        prediction = read_prediction(folder / schema.PREDICTIONS_FILE)
        table = pd.read_parquet(folder / schema.SCORES_FILE)
    except (OSError, ValueError, ArrowException) as error:
        msg = f"{folder} is not whole ({' '.join(str(error).split())[:120]}); make the run again"
        raise StoreError(msg) from error
    generator = parse(Generator, record.generator or {}, f"the generator of run {record.run_id}")
    comparison = compare(ds, split, prediction, observed_side(ds, split), generator)
    comparison = replace(comparison, var_filled=record.var_filled)
    training, metrics, calibration = (
        read_json(folder / name) if (folder / name).is_file() else None
        for name in (schema.TRAINING_FILE, schema.METRICS_FILE, schema.CALIBRATION_FILE)
    )
    beside = Beside(training, metrics, store)
    return run_report(
        record, table, comparison, split.definition, stored_stats(store, split), calibration, beside
    )


def _record(e: Experiment, fitted: Artifact, predicted: Artifact, scored: PanelScores) -> RunRecord:
    """Return the run's record, but for its id."""
    fit = read_json(fitted.path / FIT_FILE)
    predict = read_json(predicted.path / PREDICT_FILE)
    return RunRecord(
        **described_fitted(e, scored.comparison),
        run_id="",
        entry=e.config.entry,
        model=e.config.model,
        family=MODELS.get(e.config.model).family,
        params=e.config.params,
        uncertainty=e.config.uncertainty.model_dump(mode="json"),
        tuned=None if e.config.tuned is None else e.config.tuned.model_dump(mode="json"),
        seed=e.config.seed,
        config_hash=e.config.config_hash,
        entry_hash=e.config.entry_hash,
        graph_hash=fit["graph_hash"],
        side_info=fit["side_info"],
        sources=fit.get("sources", []),
        objects=ObjectKeys(
            model=fitted.key,
            prediction=predicted.key,
            scores=scored.key,
            strata=strata_key(e),
            panels={name: artifact.key for name, artifact in scored.panels.items()},
        ),
        parent_run=parent_run(e, scored.key),
        code={**e.keys.code, "metric_panel": scored.code},
        libraries=e.keys.libraries,
        environment=fit["environment"],
        audit=[finding.to_json() for finding in e.findings],
        fallback_control_rows=fit["fallback_control_rows"],
        inner_folds=fit["inner_folds"],
        timings={"fit_s": fit["fit_s"], "predict_s": predict["predict_s"]},
        # Fits of earlier versions have none.
        cost={**fit.get("cost", {}), **predict.get("cost", {})},
    )


def parent_run(e: Experiment, scores_key: str) -> str | None:
    """Return the newest run of the same configuration, if its scores were others; one that cannot be read is none."""
    for path in reversed(runs_named(e.store, e.name)):
        with contextlib.suppress(StoreError):
            old = read_run_record(path)
            same = old.objects is not None and old.objects.scores == scores_key
            return None if same else old.run_id
    return None


def described_fitted(e: Experiment, comparison: Comparison) -> dict[str, Any]:
    """Return the fields of a `RunRecord` that an experiment and its comparison decide.

    What a model that runs elsewhere predicts is looked at as a prediction file is, so that both have the same warnings.
    """
    fields = described(e.dataset, e.split, comparison, e.stats)
    # A run is scored again also where its model is no longer there.
    if e.config.model not in MODELS or not MODELS.get(e.config.model).asks_ahead:
        return fields
    absent = comparison.not_predicted
    present = np.arange(len(comparison)) if absent is None else np.flatnonzero(~absent)
    found = warnings_of(e.dataset, observed_side(e.dataset, e.split), comparison.predicted, present)
    warnings = [*dict.fromkeys([*comparison.notes.get("warnings", ()), *found])]
    return {**fields, "notes": {**comparison.notes, "warnings": warnings}}


def described(
    ds: PerturbDataset, split: FrozenSplit, comparison: Comparison, stats: SplitStats
) -> dict[str, Any]:
    """Return the fields of a `RunRecord` that data, split and comparison decide.

    Parameters
    ----------
    ds, split
        Data and split.
    comparison
        Aligned truth and prediction.
    stats
        What is stored beside the split.
    """
    definition = split.definition
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "data_hash": ds.content_sha256,
        "split_hash": split.hash,
        "dataset": DatasetRecord(
            name=ds.name,
            content_sha256=ds.content_sha256,
            level=ds.metadata.level,
            space=ds.metadata.space,
            n_obs=ds.n_obs,
            n_genes=ds.n_genes,
            source=ds.metadata.source,
            licence=ds.metadata.licence,
            path=None if ds.path is None else str(ds.path),
        ),
        "split": SplitRecord(
            hash=split.hash,
            key=definition.key,
            kind=definition.kind,
            cv=definition.cv.model_dump(mode="json") if definition.cv else None,
        ),
        "flags": Flags(no_signal=stats.no_signal, shared_control=bool(comparison.shared_control.any())),
        "plugins": loaded_plugin_digests(),
        "generator": _generator(comparison),
        "alignment": comparison.alignment,
        "var_filled": comparison.var_filled,
        "notes": comparison.notes,
    }


def _generator(comparison: Comparison) -> dict[str, Any] | None:
    """Return how predicted cells were made, None where there are none or all are the prediction's own."""
    cells = comparison.cells
    return None if cells is None else cells.generated_by


def named_scores(table: pd.DataFrame, record: RunRecord) -> pd.DataFrame:
    """Return scores with the columns that name their run, in the order of the schema."""
    out = table.assign(
        run_id=record.run_id,
        dataset=record.dataset.name,
        split_hash=record.split_hash,
        split_kind=record.split.kind,
        entry=record.entry,
        config_hash=record.config_hash,
        seed=record.seed,
    )
    return out[list(schema.SCORE_COLUMNS)]
