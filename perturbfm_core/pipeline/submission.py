"""Stage `submission`: a prediction file that was made elsewhere, scored with the panels of any run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from perturbfm_core import schema
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction_files import read_prediction_file
from perturbfm_core.data.prediction_labels import LabelColumns
from perturbfm_core.errors import StoreError
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.evaluation.panel import of_groups
from perturbfm_core.evaluation.submitted import Missing, Submitted, submitted
from perturbfm_core.pipeline.calibration_report import source_of_variance
from perturbfm_core.pipeline.metric_panel import Scores, observed_side, score_prediction
from perturbfm_core.pipeline.opening import check_generator
from perturbfm_core.pipeline.report import described, named_scores
from perturbfm_core.pipeline.split import stats_with_bounds
from perturbfm_core.reports.pages.run import Beside, run_report
from perturbfm_core.schema import CountGenerator, PredictionKind
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import file_digest, json_text, parquet_bytes, write_together
from perturbfm_core.store.code import code_of
from perturbfm_core.store.machine import environment
from perturbfm_core.store.run_record import RunRecord
from perturbfm_core.uncertainty.calibrator import calibration_of


def read_submission(
    ds: PerturbDataset,
    split: FrozenSplit,
    predictions: Path,
    *,
    kind: PredictionKind | None = None,
    missing: Missing = "refuse",
    columns: LabelColumns | None = None,
) -> Submitted:
    """Read a prediction file of any format as the prediction of a split's test conditions.

    Parameters
    ----------
    ds, split
        Data and split.
    predictions
        The file: npz, h5ad, parquet or CSV.
    kind
        What its numbers are; by default what the file says, else recognised.
    missing
        What is done about test conditions that it lacks.
    columns
        Names of its columns, as far as they are given.

    Raises
    ------
    PredictionError
        If the file cannot be read, or does not cover, or belong to, the split.
    """
    wanted = (columns or LabelColumns()).of(ds)
    split.check_dataset(ds)
    given = read_prediction_file(predictions, wanted, ds.genes)
    side = observed_side(ds, split)
    return submitted(ds, split, given, side, kind=kind, missing=missing, columns=wanted)


def tested_keys(ds: PerturbDataset, split: FrozenSplit) -> list[str]:
    """Return the keys of the conditions that a split tests, sorted."""
    codes = np.unique(ds.condition_codes[split.rows(ds, "test")])
    return [str(key) for key in ds.conditions.index[codes]]


def evaluate_file(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    predictions: Path,
    out: Path,
    *,
    entry: str = "external",
    kind: PredictionKind | None = None,
    missing: Missing = "refuse",
    columns: LabelColumns | None = None,
    generator: CountGenerator | None = None,
) -> Scores:
    """Score a prediction file and write metrics, scores, calibration and a report into `out`.

    Parameters
    ----------
    store
        Where ceilings and floors of the split are kept.
    ds, split
        Data and split.
    predictions
        The file: npz, h5ad, parquet or CSV.
    out
        Directory for the results.
    entry
        Name to show in the report.
    kind, missing, columns
        See `read_submission`.
    generator
        How counts are drawn of its means, the default if None.

    Raises
    ------
    PredictionError
        If the file does not cover, or does not belong to, the split.
    StoreError
        If `out` is a published run, or lies among the runs.
    """
    if (out / schema.SPLIT_HASH_FILE).exists():
        msg = f"{out} is a published run; choose another --out"
        raise StoreError(msg)
    if store.runs.resolve() in (out.resolve(), *out.resolve().parents):
        msg = (
            f"{out} lies among the published runs, where a folder of scores is not ranked; publish the file with "
            "`perturbfm submit` (or --publish in place of --out), or choose an --out elsewhere"
        )
        raise StoreError(msg)
    scores = score_file(
        store, ds, split, predictions, kind=kind, missing=missing, columns=columns, generator=generator
    )
    identity = content_hash({"predictions": file_digest(predictions)})
    record = RunRecord(
        **described(ds, split, scores.comparison, scores.stats),
        **made_elsewhere(scores),
        run_id=out.name,
        entry=entry,
        config_hash=identity,
        entry_hash=identity,
    )
    write_together(out, {**result_files(record, split, scores, store), schema.CONFIG_FILE: record.to_text()})
    return scores


def score_file(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    predictions: Path,
    *,
    kind: PredictionKind | None = None,
    missing: Missing = "refuse",
    columns: LabelColumns | None = None,
    generator: CountGenerator | None = None,
) -> Scores:
    """Score a prediction file with every panel.

    Parameters
    ----------
    store
        Where ceilings and floors of the split are kept.
    ds, split, predictions
        Data, split and the file.
    kind, missing, columns
        See `read_submission`.
    generator
        How counts are drawn of its means, the default if None.

    Raises
    ------
    ConfigError
        If a generator is given for data without counts.
    """
    if generator is not None:
        check_generator(ds, generator)
    read = read_submission(ds, split, predictions, kind=kind, missing=missing, columns=columns)
    own = read.prediction.cells
    if generator is not None and own is not None and own.counts is not None:
        read.warnings.append(f"the file has counts of its own, so that none are drawn by {generator}")
    beside = predictions.parent
    return score_prediction(
        ds,
        split,
        read.prediction,
        stats_with_bounds(store, ds, split),
        variance_source=_source_beside(predictions),
        calibrator=calibration_of(beside) if (beside / schema.CALIBRATOR_META_FILE).is_file() else None,
        notes={**read.notes, "warnings": read.warnings},
        store=store,
        generator=None if generator is None else Generator(counts=generator),
    )


def made_elsewhere(scores: Scores) -> dict[str, Any]:
    """Return the fields of a `RunRecord` that are the same for every prediction made elsewhere."""
    code = code_of(__name__)
    return {
        "model": "external",
        "family": "external",
        "code": {"submission": code.digest},
        "libraries": dict(code.libraries),
        "environment": environment(),
        "audit": list(scores.stats.audit),
    }


def result_files(
    record: RunRecord, split: FrozenSplit, scores: Scores, store: ArtifactStore | None = None
) -> dict[str, bytes | str]:
    """Return {file name: content} of metrics, scores, calibration and report.

    Parameters
    ----------
    record
        The record of the run.
    split
        The split.
    scores
        The scores.
    store
        The store of the runs that the report compares with; None for a report without.
    """
    beside = Beside(metrics=scores.metrics, store=store)
    page = run_report(
        record, scores.table, scores.comparison, split.definition, scores.stats, scores.calibration, beside
    )
    return {
        schema.METRICS_FILE: json_text(of_groups(scores.metrics)),
        schema.CALIBRATION_FILE: json_text(scores.calibration),
        schema.SCORES_FILE: parquet_bytes(named_scores(scores.table, record)),
        schema.REPORT_FILE: page,
    }


def _source_beside(predictions: Path) -> str:
    """Return where the variance comes from, if the model lies beside the prediction."""
    beside = predictions.parent
    return source_of_variance(beside) if (beside / schema.MODEL_META_FILE).is_file() else "as given"
