"""Stage `submission`: a prediction file that was made elsewhere, scored with the panels of any run."""

from __future__ import annotations

from pathlib import Path

from perturbfm_core import schema
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.errors import StoreError
from perturbfm_core.pipeline.metric_panel import Scores, score_prediction, source_of_variance
from perturbfm_core.pipeline.report import described, named_scores
from perturbfm_core.pipeline.split import stats_with_bounds
from perturbfm_core.reports.pages.run import run_report
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import file_digest, parquet_bytes, write_atomic, write_json
from perturbfm_core.store.code import code_of
from perturbfm_core.store.machine import environment
from perturbfm_core.store.run_record import RunRecord
from perturbfm_core.uncertainty.calibrator import calibration_of


def evaluate_file(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    predictions: Path,
    out: Path,
    *,
    entry: str = "external",
) -> Scores:
    """Score a prediction file and write metrics, scores, calibration and a report into `out`.

    Parameters
    ----------
    store
        Where ceilings and floors of the split are kept.
    ds, split
        Data and split.
    predictions
        The ``predictions.npz``.
    out
        Directory for the results.
    entry
        Name to show in the report.

    Raises
    ------
    PredictionError
        If the file does not cover, or does not belong to, the split.
    StoreError
        If `out` is a published run.
    """
    if (out / schema.SPLIT_HASH_FILE).exists():
        msg = f"{out} is a published run; choose another --out"
        raise StoreError(msg)
    prediction = read_prediction(predictions)
    stats = stats_with_bounds(store, ds, split)
    beside = predictions.parent
    scores = score_prediction(
        ds,
        split,
        prediction,
        stats,
        variance_source=_source_beside(predictions),
        calibrator=calibration_of(beside) if (beside / schema.CALIBRATOR_META_FILE).is_file() else None,
    )
    identity = content_hash({"predictions": file_digest(predictions)})
    code = code_of(__name__)
    record = RunRecord(
        **described(ds, split, scores.comparison, stats),
        run_id=out.name,
        entry=entry,
        model="external",
        family="external",
        config_hash=identity,
        entry_hash=identity,
        code={"submission": code.digest},
        libraries=dict(code.libraries),
        environment=environment(),
        audit=list(stats.audit),
    )
    page = run_report(record, scores.table, scores.comparison, split.definition, stats, scores.calibration)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / schema.METRICS_FILE, scores.metrics)
    write_json(out / schema.CALIBRATION_FILE, scores.calibration)
    record.write(out)
    write_atomic(out / schema.SCORES_FILE, parquet_bytes(named_scores(scores.table, record)))
    write_atomic(out / schema.REPORT_FILE, page)
    return scores


def _source_beside(predictions: Path) -> str:
    """Return where the variance comes from, if the model lies beside the prediction."""
    beside = predictions.parent
    return source_of_variance(beside) if (beside / schema.MODEL_META_FILE).is_file() else "as given"
