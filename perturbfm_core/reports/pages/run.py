"""HTML report of one run: where it stands, observed against predicted changes, training, uncertainty, every score, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.reports.html import embedded_json, number, render
from perturbfm_core.reports.run import uncertainty
from perturbfm_core.reports.run.conditions import condition_data, titles_of
from perturbfm_core.reports.run.coverage import coverage_of
from perturbfm_core.reports.run.enrichment import enrichment, gene_set_files
from perturbfm_core.reports.run.overview import components, heatmap
from perturbfm_core.reports.run.provenance import audit_rows, flags_of, provenance
from perturbfm_core.reports.run.ruler import ruler
from perturbfm_core.reports.run.scale import scale_rows
from perturbfm_core.reports.run.scores import BETTER, ReportScores, panel_tables
from perturbfm_core.reports.run.standing import Baseline, Standing, baselines_of, standing_of
from perturbfm_core.reports.run.training import training_data
from perturbfm_core.reports.run.verdict import verdict
from perturbfm_core.splits.folder import SplitStats
from perturbfm_core.splits.split import Split
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.run_record import RunRecord

EXTREMES = 5


@dataclass(frozen=True, eq=False)
class Beside:
    """What a report shows beside the scores.

    Attributes
    ----------
    training, metrics
        Content of ``training.json`` and ``metrics.json``; None without them.
    store
        The store whose baselines the run is compared with; None for a report without.
    gene_sets
        Gene-set files; None for those of the catalog.
    """

    training: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    store: ArtifactStore | None = None
    gene_sets: Sequence[Path] | None = None


def run_report(
    record: RunRecord,
    table: pd.DataFrame,
    comparison: Comparison,
    split: Split,
    stats: SplitStats | None,
    calibration: dict[str, Any] | None = None,
    beside: Beside | None = None,
) -> str:
    """Return the HTML report of a run.

    Parameters
    ----------
    record
        Content of ``config.json``.
    table
        Scores in long form (see `PanelScores.table`).
    comparison
        Aligned observation and prediction, for the plots.
    split, stats
        The split, and its ceilings, floors and fold counts; None if unknown.
    calibration
        Content of ``calibration.json``; None without it.
    beside
        What else is shown.
    """
    beside = beside or Beside()
    scores = ReportScores(table)
    others: list[Baseline] = (
        []
        if beside.store is None
        else baselines_of(beside.store, record, *scores.headline, version=scores.version)
    )
    standing = standing_of(scores, comparison, split, others)
    bounds = ruler(record.entry, scores, standing, stats)
    # As on the leaderboard, what is stored beside the split counts, where it is known there.
    known = None if stats is None else stats.no_signal
    no_signal = bool(record.flags.no_signal if known is None else known)
    picks = _picks(comparison, scores)
    files = gene_set_files() if beside.gene_sets is None else beside.gene_sets
    training = training_data(beside.training)
    sets = enrichment(comparison, files) if files else None
    values: dict[str, Any] = {
        "direction": scores.direction,
        "headline": ".".join(scores.headline),
        "ruler": bounds.points,
        "detail": condition_data(comparison, scores),
        "heatmap": heatmap(comparison),
        "components": components(comparison),
        "training": training["curves"],
        "calibration": uncertainty.calibration_data(calibration),
        "fans": uncertainty.fans(comparison, picks),
        "tables": {
            "conditions": scores.conditions_table(),
            "perturbations": scores.data_table("perturbation"),
            "contexts": scores.data_table("context"),
            "strata": scores.data_table("stratum"),
        },
        "sets": sets["rows"] if sets else None,
    }
    return render(
        "run.html",
        record=record,
        data=embedded_json(values),
        flags=flags_of(record, no_signal=no_signal),
        headline=values["headline"],
        better=BETTER[scores.direction],
        value=number(scores.value),
        description=scores.metric.description.rstrip(".") + "." if scores.metric is not None else "",
        interval=_interval(standing),
        verdict=verdict(scores.value, standing, noise_free=bounds.noise_free, no_signal=no_signal),
        bounds=bounds,
        standing=standing,
        coverage=coverage_of(scores, record, beside.training),
        extremes=_extremes(comparison, scores),
        shown=values["detail"],
        overview=values,
        components=values["components"],
        calibrated=uncertainty.how_calibrated(calibration),
        has_calibration=values["calibration"] is not None,
        training=training,
        sets=sets,
        panels=panel_tables(scores, stats),
        scale=scale_rows(beside.metrics),
        audit=audit_rows(record),
        folds=[[f, c["conditions"], c["rows"]] for f, c in (stats.counts if stats else {}).items()],
        split=split,
        provenance=provenance(record, beside.metrics),
        n_genes=len(comparison.genes),
        n_conditions=len(comparison),
    )


def _interval(standing: Standing) -> str:
    low, high = standing.interval.low, standing.interval.high
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _picks(comparison: Comparison, scores: ReportScores) -> list[tuple[str, int]]:
    """Return (title, position) of the worst, median and best condition, none where there is no order."""
    ordered = [str(key) for key in scores.goodness.index]
    if not ordered:
        return []
    position = {str(k): i for i, k in enumerate(comparison.conditions.index)}
    titles = titles_of(comparison)
    chosen = {"worst": 0, "median": len(ordered) // 2, "best": len(ordered) - 1}
    seen: dict[int, str] = {}
    for label, at in chosen.items():
        seen.setdefault(at, label)
    return [
        (f"{label}: {titles[position[ordered[at]]]}", position[ordered[at]]) for at, label in seen.items()
    ]


def _extremes(comparison: Comparison, scores: ReportScores) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the best and the worst conditions as (key, title, value), each condition once."""
    ordered = scores.goodness
    titles = dict(zip([str(k) for k in comparison.conditions.index], titles_of(comparison), strict=True))
    most = min(EXTREMES, max(len(ordered) // 2, 1))

    def rows(part: pd.Series) -> list[tuple[str, str, str]]:
        return [(str(k), titles.get(str(k), str(k)), number(v)) for k, v in part.items()]

    if len(ordered) < 2:
        return [("Only condition", rows(ordered))] if len(ordered) else []
    return [("Best", rows(ordered.iloc[::-1].iloc[:most])), ("Worst", rows(ordered.iloc[:most]))]
