"""A scored cell as a run directory, complete or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import read_prediction
from perturbfm_core.errors import StoreError
from perturbfm_core.evaluation.comparison import compare
from perturbfm_core.freezing import stats_with_bounds
from perturbfm_core.models import MODELS
from perturbfm_core.reports.run_report import run_report
from perturbfm_core.runs import RunConfig, Stage, named_scores, parent_run, run_meta
from perturbfm_core.scoring import observed_side
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.store import ArtifactStore, read_json, write_atomic, write_json


def publish_run(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen: FrozenSplit,
    config: RunConfig,
    fitted: Stage,
    predicted: Stage,
    scored: Stage,
) -> Path:
    """Gather a cell's model, prediction and scores with its report in a run directory, published by one rename."""
    stats = stats_with_bounds(store, ds, frozen)
    comparison = compare(
        ds, frozen, read_prediction(predicted.path / schema.PREDICTIONS_FILE), observed_side(ds, frozen)
    )
    table = pd.read_parquet(scored.path / schema.SCORES_FILE)
    fit_info, predict_info = read_json(fitted.path / "fit.json"), read_json(predicted.path / "predict.json")
    records = read_json(fitted.path / schema.RECORDS_FILE) | {"predict_reads": predict_info["reads"]}
    meta = {
        **run_meta(ds, frozen, comparison, stats),
        "entry": config.entry,
        "model": config.model,
        "family": MODELS.get(config.model).family,
        "params": config.params,
        "uncertainty": config.uncertainty.model_dump(mode="json"),
        "tuned": None if config.tuned is None else config.tuned.model_dump(mode="json"),
        "seed": config.seed,
        "config_hash": config.config_hash,
        "entry_hash": config.entry_hash,
        "objects": {"model": fitted.key, "prediction": predicted.key, "scores": scored.key},
        "parent_run": parent_run(store, frozen, config, scored.key),
        "environment": fit_info["environment"],
        "graph_hash": fit_info["graph_hash"],
        "knowledge": fit_info["knowledge"],
        "audit": fit_info["audit"],
        "fallback_control_rows": fit_info["fallback_control_rows"],
        "inner_folds": fit_info["inner_folds"],
        "timings": {
            "fit_s": fit_info["fit_s"],
            "predict_s": predict_info["predict_s"],
        },
    }
    while True:
        run_id = store.new_run_id(frozen.hash, config.entry, config.config_hash)
        meta["run_id"] = run_id
        destination = store.run(run_id)
        with store.stage() as staging:
            folder = staging.path
            for source, names in (
                (fitted.path, (schema.MODEL_FILE, schema.MODEL_META_FILE)),
                (fitted.path, (schema.CALIBRATOR_FILE, schema.CALIBRATOR_META_FILE)),
                (predicted.path, (schema.PREDICTIONS_FILE,)),
                (scored.path, (schema.METRICS_FILE, schema.CALIBRATION_FILE)),
            ):
                for name in names:
                    # A copy: whoever edits a run in place must not change the object that others reuse.
                    shutil.copyfile(source / name, folder / name)
            training = read_json(fitted.path / schema.MODEL_META_FILE)["training"]
            write_json(folder / schema.TRAINING_FILE, training)
            write_json(folder / schema.CONFIG_FILE, meta)
            write_atomic(folder / schema.RECORDS_FILE, json.dumps(records))
            write_atomic(folder / schema.SPLIT_HASH_FILE, frozen.hash + "\n")
            named_scores(table, meta).to_parquet(folder / schema.SCORES_FILE, index=False)
            calibration = read_json(scored.path / schema.CALIBRATION_FILE)
            report = run_report(meta, table, comparison, frozen.split, stats, calibration)
            write_atomic(folder / schema.REPORT_FILE, report)
            try:
                staging.publish(destination)
            except (StoreError, OSError):
                # The same cell, published by another process in the same second, has this id.
                if not destination.exists():
                    raise
                continue
        return destination
