"""Scoring any prediction on a split with the same panels, whoever made it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.calibrating import calibration_of
from perturbfm_core.config import content_hash
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction, read_prediction
from perturbfm_core.errors import StoreError
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.evaluation.panel import evaluate, metrics_json
from perturbfm_core.evaluation.panels.calibrated import saturation_strata
from perturbfm_core.evaluation.uncertainty.report import calibration_report
from perturbfm_core.freezing import stats_with_bounds
from perturbfm_core.provenance import environment
from perturbfm_core.reports.run_report import run_report
from perturbfm_core.runs import file_digest, named_scores, parquet_bytes, run_meta
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store import ArtifactStore, read_json, write_atomic, write_json


@dataclass(frozen=True, eq=False)
class Scores:
    """A scored prediction.

    Attributes
    ----------
    table
        Long scores without the columns that name the run.
    metrics, calibration
        Content of ``metrics.json`` and ``calibration.json``.
    comparison
        Aligned truth and prediction.
    stats
        The split's statistics.
    """

    table: pd.DataFrame
    metrics: dict[str, Any]
    calibration: dict[str, Any]
    comparison: Comparison
    stats: SplitStats

    @property
    def flags(self) -> dict[str, bool | None]:
        """Return the flags that every reader of these scores must see."""
        return {
            "no_signal": self.stats.no_signal,
            "shared_control": bool(self.comparison.shared_control.any()),
        }


def score_prediction(
    ds: PerturbDataset,
    frozen: FrozenSplit,
    prediction: RowPrediction,
    stats: SplitStats,
    *,
    panels: Iterable[str] | None = None,
    variance_source: str = "as given",
    calibrator: dict[str, Any] | None = None,
) -> Scores:
    """Score any prediction on a split with every panel (or the named ones).

    `calibrator` is what the prediction's calibrator says of itself, for ``calibration.json``.
    """
    comparison = compare(ds, frozen, prediction, observed_side(ds, frozen))
    strata = {**stats.strata, **saturation_strata(comparison)}
    table = evaluate(comparison, panels, level=ds.metadata.level, strata=strata).table()
    metrics = metrics_json(table)
    uncertainty = metrics.get("uncertainty", {})
    calibration = {
        **(calibrator or {"method": "as given" if comparison.intervals else "none"}),
        "variance": "filled constant" if comparison.var_filled else variance_source,
        "n_test_conditions": len(comparison),
        **{name: uncertainty.get(name) for name in ("coverage", "conformal_coverage", "nll", "crps")},
        **calibration_report(comparison, stats.strata),
    }
    return Scores(table, metrics, calibration, comparison, stats)


_OBSERVED: dict[tuple[str, str], Any] = {}


def observed_side(ds: PerturbDataset, frozen: FrozenSplit) -> Any:
    """Return the observed side of a split, kept for the next entry on it."""
    key = (ds.content_sha256, frozen.hash)
    if key not in _OBSERVED:
        while len(_OBSERVED) >= 2:
            _OBSERVED.pop(next(iter(_OBSERVED)))
        _OBSERVED[key] = observed(ds, frozen)
    return _OBSERVED[key]


def source_of_variance(model_path: Path) -> str:
    """Return where the variance of the model in a folder comes from, as ``calibration.json`` names it."""
    meta = model_path / schema.MODEL_META_FILE
    training = read_json(meta).get("training", {}) if meta.is_file() else {}
    return f"{training.get('variance', {}).get('source', 'unknown')} residuals"


def evaluate_file(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen: FrozenSplit,
    predictions: Path,
    out: Path,
    *,
    entry: str = "external",
) -> Scores:
    """Score a prediction file and write metrics, scores, calibration and a report into `out`.

    Raises
    ------
    PredictionError
        If the file does not cover, or does not belong to, the split.
    """
    if (out / schema.SPLIT_HASH_FILE).exists():
        msg = f"{out} is a published run; choose another --out"
        raise StoreError(msg)
    prediction = read_prediction(predictions)
    stats = stats_with_bounds(store, ds, frozen)
    beside = predictions.parent
    scores = score_prediction(
        ds,
        frozen,
        prediction,
        stats,
        variance_source=_source_beside(predictions),
        calibrator=calibration_of(beside) if (beside / schema.CALIBRATOR_META_FILE).is_file() else None,
    )
    meta = {
        **run_meta(ds, frozen, scores.comparison, stats),
        "run_id": out.name,
        "entry": entry,
        "model": "external",
        "family": "external",
        "params": {},
        "seed": 0,
        "config_hash": content_hash({"predictions": file_digest(predictions)}),
        "entry_hash": content_hash({"predictions": file_digest(predictions)}),
        "environment": environment(),
        "timings": {},
        "audit": list(stats.audit),
    }
    report = run_report(meta, scores.table, scores.comparison, frozen.split, stats, scores.calibration)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / schema.METRICS_FILE, scores.metrics)
    write_json(out / schema.CALIBRATION_FILE, scores.calibration)
    write_json(out / schema.CONFIG_FILE, meta)
    write_atomic(out / schema.SCORES_FILE, parquet_bytes(named_scores(scores.table, meta)))
    write_atomic(out / schema.REPORT_FILE, report)
    return scores


def _source_beside(predictions: Path) -> str:
    beside = predictions.parent
    return source_of_variance(beside) if (beside / schema.MODEL_META_FILE).is_file() else "as given"
