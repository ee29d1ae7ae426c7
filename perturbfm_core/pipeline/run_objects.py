"""Objects behind a run, found in the store or restored from the run's own files, which are copies of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.pipeline.prediction import PREDICT_FILE
from perturbfm_core.pipeline.trained_model import FIT_FILE
from perturbfm_core.store.artifacts import Artifact, ArtifactStore
from perturbfm_core.store.atomic import read_json, write_atomic, write_json
from perturbfm_core.store.run_record import ObjectKeys, RunRecord

# Columns that a run adds to its scores.
_OF_A_RUN = ("run_id", "dataset", "split_hash", "split_kind", "entry", "config_hash", "seed")
_FITTED = (
    schema.MODEL_FILE,
    schema.MODEL_META_FILE,
    schema.CALIBRATOR_FILE,
    schema.CALIBRATOR_META_FILE,
)


def fit_of(store: ArtifactStore, run: Path, record: RunRecord, keys: ObjectKeys) -> Artifact:
    """Return the fit that a run was copied from.

    Parameters
    ----------
    store
        Where objects lie.
    run, record, keys
        A whole run, its record, and the keys in it.
    """

    def fill(folder: Path) -> None:
        for name in _FITTED:
            shutil.copyfile(run / name, folder / name)
        records = read_json(run / schema.RECORDS_FILE)
        records.pop("predict_reads", None)
        write_atomic(folder / schema.RECORDS_FILE, json.dumps(records))
        write_json(
            folder / FIT_FILE,
            {
                "fit_s": record.timings.get("fit_s"),
                "cost": {k: v for k, v in record.cost.items() if k.startswith("fit_")},
                "environment": record.environment,
                "fallback_control_rows": record.fallback_control_rows,
                "graph_hash": record.graph_hash,
                "side_info": record.side_info,
                "sources": record.sources,
                "inner_folds": record.inner_folds,
            },
        )

    return Artifact(keys.model, store.put_object(keys.model, fill), reused=True)


def prediction_of(store: ArtifactStore, run: Path, record: RunRecord, keys: ObjectKeys) -> Artifact:
    """Return the prediction that a run was copied from; parameters as in `fit_of`.

    Parameters
    ----------
    store, run, record, keys
        See `fit_of`.
    """

    def fill(folder: Path) -> None:
        shutil.copyfile(run / schema.PREDICTIONS_FILE, folder / schema.PREDICTIONS_FILE)
        write_json(
            folder / PREDICT_FILE,
            {
                "predict_s": record.timings.get("predict_s"),
                "cost": {k: v for k, v in record.cost.items() if k.startswith("predict_")},
                "reads": read_json(run / schema.RECORDS_FILE).get("predict_reads", []),
            },
        )

    return Artifact(keys.prediction, store.put_object(keys.prediction, fill), reused=True)


def panel_of(store: ArtifactStore, run: Path, keys: ObjectKeys, panel: str) -> Artifact | None:
    """Return the scores of one panel that a run was copied from, None if it was not scored by that panel.

    Parameters
    ----------
    store
        Where objects lie.
    run, keys
        A whole run, and the keys in its record.
    panel
        Name of the panel.
    """
    if panel not in keys.panels:
        return None

    def fill(folder: Path) -> None:
        table = pd.read_parquet(run / schema.SCORES_FILE, filters=[("panel", "==", panel)])
        table.drop(columns=list(_OF_A_RUN)).to_parquet(folder / schema.SCORES_FILE, index=False)

    return Artifact(keys.panels[panel], store.put_object(keys.panels[panel], fill), reused=True)
