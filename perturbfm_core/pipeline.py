"""The map: from a data set to the leaderboard, one function per stage.

``import_dataset -> freeze_split -> (build_graph) -> fit -> predict -> score -> render``, and over all runs
``rank``. The Dagster assets and the command line call these functions and nothing else; each leaves one artifact.
Freezing splits is in `perturbfm_core.freezing`, graphs and gene features in `perturbfm_core.knowledge`, scoring
any prediction in `perturbfm_core.scoring`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from perturbfm_core import schema
from perturbfm_core.calibrating import calibration_of, configured_model, fit_calibrator
from perturbfm_core.catalog import load_catalog
from perturbfm_core.config import ModelEntry, check_key, content_hash
from perturbfm_core.data.artifact import Storage, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction, read_prediction, write_prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.encoders import no_cells, pretrain
from perturbfm_core.errors import SplitError
from perturbfm_core.evaluation.inner import inner_scores
from perturbfm_core.freezing import freeze_split, migrate_split, save_splits, split_stats, stats_with_bounds
from perturbfm_core.graphs.knowledge import Knowledge, Needs
from perturbfm_core.knowledge import build_graph, gather, made_of, missing
from perturbfm_core.leaderboard import database
from perturbfm_core.leaderboard.compare import comparison
from perturbfm_core.leaderboard.tables import HEADLINE_SQL, dataset_table, split_table
from perturbfm_core.library import (
    Progress,
    dataset_of,
    ensure_dataset,
    find_dataset,
    open_dataset,
    quiet,
    register_dataset,
)
from perturbfm_core.models import MODELS, Model, applicable, load_model, new_model, save_model
from perturbfm_core.provenance import environment, numeric_code, scoring_code
from perturbfm_core.publishing import publish_run
from perturbfm_core.reports.leaderboard_page import leaderboard_page
from perturbfm_core.reports.results import Idea, results_markdown
from perturbfm_core.runs import RunConfig, Stage, cores, run_configs
from perturbfm_core.scoring import Scores, evaluate_file, score_prediction, source_of_variance
from perturbfm_core.splits.audit import fit_records, query_reads, require_clean
from perturbfm_core.splits.folder import SplitFolder, traits_of
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query, train_view
from perturbfm_core.store import ArtifactStore, write_atomic, write_json
from perturbfm_core.training.progress import epoch_listener
from perturbfm_core.uncertainty.calibrator import Calibrator, load_calibrator, save_calibrator

__all__ = [
    "HEADLINE_SQL",
    "RunConfig",
    "Scores",
    "Stage",
    "build_graph",
    "dataset_of",
    "ensure_dataset",
    "evaluate_file",
    "find_dataset",
    "fit",
    "freeze_split",
    "import_dataset",
    "migrate_split",
    "needs_of",
    "open_dataset",
    "predict",
    "predict_rows",
    "pretrain",
    "rank",
    "register_dataset",
    "render",
    "results",
    "run_cell",
    "run_configs",
    "save_splits",
    "score",
    "score_prediction",
    "split_stats",
    "stats_with_bounds",
    "why_not",
]


# ---- data sets -------------------------------------------------------------------------------------------


def import_dataset(
    store: ArtifactStore,
    ds: PerturbDataset,
    path: Path | None = None,
    *,
    storage: Storage = "zarr",
    truth: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a data set's artifact (default ``data/<name>``) and return its directory."""
    path = path or store.dataset(check_key(ds.name, "data set name"))
    write_dataset(ds, path, storage, truth=truth, overwrite=overwrite)
    return path


# ---- one cell of the grid --------------------------------------------------------------------------------


def why_not(traits: Any, entry: ModelEntry) -> str | None:
    """Return why an entry cannot run on a split with these traits, None if it can."""
    needs = needs_of(entry)
    reason = applicable(traits, MODELS.get(entry.model).requires) or missing(needs)
    return reason or (no_cells(traits) if needs.encoder is not None else None)


def needs_of(entry: ModelEntry | RunConfig) -> Needs:
    """Return the graphs and gene features that a configured model reads."""
    return new_model(entry.model, entry.params).needs()


def model_key(
    ds: PerturbDataset, frozen: FrozenSplit, config: RunConfig, knowledge: Knowledge | None = None
) -> str:
    """Return the identity of a fitted model: data, split, configuration with seed, graphs and features, code."""
    return content_hash(
        {
            "stage": "model",
            "data": ds.content_sha256,
            "split": frozen.hash,
            "config": config.config_hash,
            "knowledge": (knowledge or Knowledge()).digests,
            "code": numeric_code(),
        }
    )


def _knowledge(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen: FrozenSplit,
    config: RunConfig,
    progress: Progress = quiet,
) -> Knowledge:
    return gather(store, ds, frozen, needs_of(config), progress)


def fit(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen: FrozenSplit,
    config: RunConfig,
    progress: Progress = quiet,
) -> Stage:
    """Fit a model on a split, or find the one that was fitted with the same inputs and code.

    Data and split are verified and audited first, whoever calls; one of the training slots is held. The graphs
    and gene features that the model needs are built or loaded by their content, so a cell runs alone. A training
    that was interrupted goes on from its last checkpoint.
    """
    frozen.check_dataset(ds)
    warnings = require_clean(ds, frozen)
    knowledge = _knowledge(store, ds, frozen, config, progress)
    key = model_key(ds, frozen, config, knowledge)
    path = store.object(key)
    if path.is_dir():
        return Stage(key, path, reused=True)
    model = configured_model(config)
    model.knowledge = knowledge
    model.on_epoch, model.checkpoints = epoch_listener(progress), store.checkpoints(key)
    view = train_view(ds, frozen)

    with store.training_slot(lambda: progress("waiting for a training slot")) as slots:
        if path.is_dir():
            return Stage(key, path, reused=True)

        def fill(folder: Path) -> None:
            progress(f"fitting {config.entry}, seed {config.seed}")
            with threadpool_limits(limits=max(1, cores() // slots)):
                start = time.perf_counter()
                model.fit(view, config.seed)
                seconds = time.perf_counter() - start
                save_model(model, folder)
                save_calibrator(fit_calibrator(ds, frozen, view, model, config), folder)
                write_json(
                    folder / "fit.json",
                    {
                        "fit_s": seconds,
                        "environment": environment(),
                        "audit": [w.to_json() for w in warnings],
                        "fallback_control_rows": _fallback_rows(ds, frozen),
                        "graph_hash": knowledge.graph_hash,
                        "knowledge": knowledge.digests,
                        "inner_folds": inner_scores(model.oof, view.delta.mean(axis=0)),
                    },
                )
                records = fit_records(ds, frozen, view, config.entry, made_of(knowledge))
                write_atomic(folder / schema.RECORDS_FILE, records.model_dump_json(exclude_none=True))

        store.put_object(key, fill)
    shutil.rmtree(store.checkpoints(key), ignore_errors=True)
    return Stage(key, path, reused=False)


def _fallback_rows(ds: PerturbDataset, frozen: FrozenSplit) -> int:
    if not ds.has_controls:
        return 0
    fit_rows = np.zeros(ds.n_obs, dtype=np.bool_)
    fit_rows[frozen.rows(ds, *frozen.fit_folds)] = True
    return ds.controls.fallback_rows("input", fit_rows)


def predict(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen: FrozenSplit,
    config: RunConfig,
    progress: Progress = quiet,
) -> Stage:
    """Predict the test conditions of a split with its fitted model, or find that prediction."""
    knowledge = _knowledge(store, ds, frozen, config, progress)
    key = content_hash({"stage": "prediction", "model": model_key(ds, frozen, config, knowledge)})
    if store.object(key).is_dir():
        return Stage(key, store.object(key), reused=True)
    fitted = fit(store, ds, frozen, config, progress)
    progress(f"predicting with {config.entry}, seed {config.seed}")
    model, calibrator = load_model(fitted.path), load_calibrator(fitted.path)

    def fill(folder: Path) -> None:
        start = time.perf_counter()
        query = query_of_test(ds, frozen)
        write_prediction(predict_rows(ds, frozen, model, query, calibrator), folder / schema.PREDICTIONS_FILE)
        seconds = time.perf_counter() - start
        write_json(folder / "predict.json", {"predict_s": seconds, "reads": query_reads(query)})

    return Stage(key, store.put_object(key, fill), reused=False)


def query_of_test(ds: PerturbDataset, frozen: FrozenSplit) -> Query:
    """Return a split's test conditions as models are asked for them: names and matched input controls only."""
    table = condition_table(ds, frozen.rows(ds, "test"))
    return Query(table.conditions, ds.genes, table.control.get("input"))


def predict_rows(
    ds: PerturbDataset,
    frozen: FrozenSplit,
    model: Model,
    query: Query | None = None,
    calibrator: Calibrator | None = None,
) -> RowPrediction:
    """Return a model's prediction for the test rows of a split, one row of means per condition.

    The model and its calibrator are given `query_of_test` (`query`, where the caller has it already), nothing else.
    """
    rows = frozen.rows(ds, "test")
    row = np.unique(ds.condition_codes[rows], return_inverse=True)[1]
    query = query_of_test(ds, frozen) if query is None else query
    prediction = model.predict(query)
    if calibrator is not None:
        prediction = calibrator.apply(prediction, query.conditions)
    return RowPrediction(
        mean=prediction.mean,
        var=prediction.var,
        idx=rows,
        row=row.astype(np.int64),
        genes=ds.genes,
        row_id=ds.row_ids[rows],
        split_hash=frozen.hash,
        data_content_sha256=ds.content_sha256,
        space="log1p" if ds.metadata.space == "counts" else ds.metadata.space,
        control=ds.metadata.control_policy,
        var_epistemic=prediction.var_epistemic,
        intervals=prediction.intervals,
    )


def score(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen: FrozenSplit,
    config: RunConfig,
    progress: Progress = quiet,
) -> Stage:
    """Score a cell's prediction, or find the scores that the same prediction and code gave."""
    predicted = predict(store, ds, frozen, config, progress)
    stats = stats_with_bounds(store, ds, frozen)
    key = content_hash(
        {
            "stage": "scores",
            "prediction": predicted.key,
            "code": scoring_code(),
            "strata": stats.strata,
        }
    )
    if store.object(key).is_dir():
        return Stage(key, store.object(key), reused=True)
    progress(f"scoring {config.entry}, seed {config.seed}")
    knowledge = _knowledge(store, ds, frozen, config)
    fitted_path = store.object(model_key(ds, frozen, config, knowledge))
    source = source_of_variance(fitted_path)

    def fill(folder: Path) -> None:
        prediction = read_prediction(predicted.path / schema.PREDICTIONS_FILE)
        scores = score_prediction(
            ds, frozen, prediction, stats, variance_source=source, calibrator=calibration_of(fitted_path)
        )
        scores.table.to_parquet(folder / schema.SCORES_FILE, index=False)
        write_json(folder / schema.METRICS_FILE, scores.metrics)
        write_json(folder / schema.CALIBRATION_FILE, scores.calibration)

    return Stage(key, store.put_object(key, fill), reused=False)


def render(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen: FrozenSplit,
    config: RunConfig,
    progress: Progress = quiet,
) -> Path:
    """Publish a scored cell as a run directory with its report, by one rename; return the directory."""
    scored = score(store, ds, frozen, config, progress)
    predicted = predict(store, ds, frozen, config)
    fitted = fit(store, ds, frozen, config)
    progress(f"writing the report of {config.entry}, seed {config.seed}")
    return publish_run(store, ds, frozen, config, fitted, predicted, scored)


def run_cell(
    store: ArtifactStore,
    split: str,
    entry: ModelEntry,
    *,
    data: Path | None = None,
    progress: Progress = quiet,
) -> list[Path]:
    """Run one cell of the grid, all its seeds, without any scheduler; return the run directories."""
    frozen = SplitFolder(store.split_dir).load(split)
    ds = dataset_of(store, frozen, data)
    reason = why_not(traits_of(frozen, ds), entry)
    if reason is not None:
        msg = f"entry {entry.name!r} is not applicable to split {frozen.split.key}: it {reason}"
        raise SplitError(msg)
    return [render(store, ds, frozen, config, progress) for config in run_configs(entry)]


# ---- over all runs ----------------------------------------------------------------------------------------


def rank(store: ArtifactStore) -> Path:
    """Rebuild and publish the leaderboard and its page; return the database file."""
    target = database.rebuild(store, lambda: split_table(store), lambda: dataset_table(store))
    with database.connect(store) as con:
        board = con.execute("SELECT * FROM leaderboard").df()
        n_runs = int(con.execute("SELECT count(*) FROM runs").df().iloc[0, 0])
    write_atomic(store.leaderboard_page, leaderboard_page(board, n_runs))
    return target


def results(store: ArtifactStore) -> str:
    """Return the results table and the comparison of models of the published leaderboard, as Markdown."""
    with database.connect(store) as con:
        board = con.execute("SELECT * FROM leaderboard").df()
    ideas = {}
    for name, entry in load_catalog().models.items():
        needs = needs_of(entry)
        ideas[name] = Idea(
            text=entry.description, inputs=entry.inputs, graphs=needs.graphs, features=needs.features
        )
    return results_markdown(board, comparison(store), ideas)
