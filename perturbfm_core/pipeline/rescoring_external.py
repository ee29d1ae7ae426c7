"""Submissions scored again, from the means and variances that their runs keep."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core import schema
from perturbfm_core.config import content_hash, parse
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.errors import PredictionError
from perturbfm_core.evaluation.cells import Generator
from perturbfm_core.pipeline.calibration_report import CALIBRATION_PANEL
from perturbfm_core.pipeline.metric_panel import (
    Scores,
    score_prediction,
    scoring_code,
)
from perturbfm_core.pipeline.publishing import publish_scores
from perturbfm_core.pipeline.report import described
from perturbfm_core.pipeline.split import stats_with_bounds
from perturbfm_core.progress import Progress
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store.artifacts import ArtifactStore
from perturbfm_core.store.atomic import read_json
from perturbfm_core.store.run_record import RunRecord

# Notes on predicted cells, which a run does not keep.
_CELL_NOTES = ("own_cells",)


def rescore_submission(
    store: ArtifactStore,
    ds: PerturbDataset,
    split: FrozenSplit,
    run: Path,
    record: RunRecord,
    panels: Collection[str] | None,
    tell: Progress,
) -> Path | None:
    """Publish a submission anew, None if its scores are those of the code that there is now.

    Parameters
    ----------
    store, ds, split
        Where it is published, its data and split.
    run, record
        The run and its record.
    panels
        The only panels that are scored anew; all if None.
    tell
        Called with a line of text about progress.

    Raises
    ------
    PredictionError
        If it was scored from predicted cells, which its run does not keep.
    """
    code = scoring_code()
    if record.code.get("metric_panel") == content_hash(code):
        return None
    if any(record.notes.get(name) for name in _CELL_NOTES):
        msg = "it was scored from predicted cells, which a run does not keep; hand in its file again (perturbfm submit --again)"
        raise PredictionError(msg)
    name = f"{record.split_hash[:7]}_{record.entry}_{record.config_hash[:8]}"
    with store.lock(f"run-{name}", what=f"the submission {name}", tell=tell):
        tell(f"scoring {record.entry}, seed {record.seed}")
        prediction = read_prediction(run / schema.PREDICTIONS_FILE)
        scores = score_prediction(
            ds,
            split,
            replace(prediction, var_filled=record.var_filled),
            stats_with_bounds(store, ds, split),
            panels=panels,
            store=store,
            generator=parse(Generator, record.generator or {}, f"the generator of run {record.run_id}"),
        )
        if panels and _is_same(run, scores, panels):
            return None
        if panels:
            scores = _beside_old(run, scores, panels)
            code = {
                **code,
                "partial": record.code.get("metric_panel", ""),
                "panels": ",".join(sorted(panels)),
            }
        # How the file was read, and what was noted of it, is not in the prediction that is kept.
        kept: dict[str, Any] = {"alignment": record.alignment, "notes": record.notes}
        new = record.model_copy(
            update={
                **described(ds, split, scores.comparison, scores.stats),
                **kept,
                "code": {**record.code, "metric_panel": content_hash(code)},
                "parent_run": record.run_id,
                "rescored_from": record.run_id,
                "files": {},
            }
        )
        return publish_scores(store, ds, split, scores, new)


def _is_same(run: Path, scores: Scores, panels: Collection[str]) -> bool:
    """Return whether a run has these scores of some panels already."""
    names = ["panel", "metric", "metric_version", "scope", "key"]
    old = pd.read_parquet(run / schema.SCORES_FILE, filters=[("panel", "in", list(panels))])
    a, b = (frame.set_index(names)["value"].sort_index() for frame in (old, scores.table))
    return a.index.equals(b.index) and np.array_equal(
        a.to_numpy(np.float64), b.to_numpy(np.float64), equal_nan=True
    )


def _beside_old(run: Path, scores: Scores, panels: Collection[str]) -> Scores:
    """Return new scores of some panels with the old ones of all others."""
    old = pd.read_parquet(run / schema.SCORES_FILE)
    old = old[~old["panel"].isin(list(panels))]
    table = pd.concat([old[list(scores.table.columns)], scores.table], ignore_index=True)
    calibration = scores.calibration
    if CALIBRATION_PANEL not in panels:
        calibration = read_json(run / schema.CALIBRATION_FILE)
    kept = {p: v for p, v in read_json(run / schema.METRICS_FILE).items() if p not in panels}
    return replace(scores, table=table, metrics={**kept, **scores.metrics}, calibration=calibration)
