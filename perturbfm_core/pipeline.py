"""The map: from a data set to the leaderboard, one function per stage.

``import_dataset -> freeze_split -> fit -> predict -> score -> render``, and over all runs ``rank``. The
Dagster assets and the command line call these functions and nothing else; each leaves one artifact.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from perturbfm_core import schema
from perturbfm_core.config import ModelEntry, SplitSpec, check_key, content_hash
from perturbfm_core.data.artifact import Storage, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction, read_prediction, write_prediction
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import SplitError, StoreError
from perturbfm_core.evaluation.ceilings import bounds_of
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.evaluation.panel import evaluate, metrics_json
from perturbfm_core.evaluation.panels.calibrated import saturation_strata
from perturbfm_core.leaderboard import database
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
from perturbfm_core.reports.leaderboard_page import leaderboard_page
from perturbfm_core.reports.run_report import run_report
from perturbfm_core.runs import (
    RunConfig,
    file_digest,
    named_scores,
    parent_run,
    parquet_bytes,
    run_configs,
    run_meta,
)
from perturbfm_core.splits.audit import audit, require_clean
from perturbfm_core.splits.folder import SplitFolder, SplitStats, row_digests, traits_of
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, RowFolds
from perturbfm_core.splits.strata import strata_of
from perturbfm_core.splits.view import Query, train_view
from perturbfm_core.store import ArtifactStore, read_json, write_atomic, write_json

__all__ = [
    "HEADLINE_SQL",
    "RunConfig",
    "Scores",
    "Stage",
    "dataset_of",
    "ensure_dataset",
    "evaluate_file",
    "find_dataset",
    "fit",
    "freeze_split",
    "import_dataset",
    "migrate_split",
    "open_dataset",
    "predict",
    "predict_rows",
    "rank",
    "register_dataset",
    "render",
    "run_cell",
    "run_configs",
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


# ---- splits ----------------------------------------------------------------------------------------------


def freeze_split(
    store: ArtifactStore,
    ds: PerturbDataset,
    spec: SplitSpec,
    *,
    bounds: bool = True,
    progress: Progress = quiet,
) -> list[tuple[FrozenSplit, SplitStats, bool]]:
    """Freeze the splits that `spec` describes, audited, with ceilings and floors beside them.

    Returns
    -------
    list
        (split, statistics, whether it is new). A split that exists keeps its hash and file.

    Raises
    ------
    SplitError
        If the audit blocks one of them; then none is written.
    """
    return save_splits(store, ds, freeze(ds, spec), bounds=bounds, progress=progress)


def save_splits(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen_all: Sequence[FrozenSplit],
    *,
    bounds: bool = True,
    progress: Progress = quiet,
) -> list[tuple[FrozenSplit, SplitStats, bool]]:
    """Write splits with what belongs beside them, if the audit blocks none (see `freeze_split`)."""
    folder = SplitFolder(store.split_dir)
    for frozen in frozen_all:
        require_clean(ds, frozen)
    out = []
    for i, frozen in enumerate(frozen_all):
        progress(f"split {i + 1} of {len(frozen_all)}: {frozen.split.key}")
        stats = split_stats(ds, frozen, bounds=bounds, progress=progress)
        old = folder.stats(frozen.hash)
        if old is not None and not bounds:
            stats = stats.model_copy(
                update={"ceiling": old.ceiling, "floor": old.floor, "no_signal": old.no_signal}
            )
        if old is not None:
            stats = stats.model_copy(update={"supersedes": old.supersedes})
        new = folder.save(frozen, stats)
        out.append((frozen, stats, new))
    return out


def split_stats(
    ds: PerturbDataset, frozen: FrozenSplit, *, bounds: bool = True, progress: Progress = quiet
) -> SplitStats:
    """Return what is stored beside a split (see `SplitStats`)."""
    codes = frozen.codes(ds)
    counts: dict[str, dict[str, int]] = {}
    for i, fold in enumerate(schema.FOLDS):
        rows = np.flatnonzero(codes == i)
        if len(rows):
            counts[fold] = {"conditions": len(np.unique(ds.condition_codes[rows])), "rows": len(rows)}
    unused = (
        frozen.split.folds.table.get("unused", ()) if isinstance(frozen.split.folds, ConditionFolds) else ()
    )
    stats = SplitStats(
        counts=counts,
        traits=traits_of(frozen, ds),
        row_digests=row_digests(frozen, ds),
        strata=strata_of(ds, frozen, expression=bounds),
        audit=tuple(f.to_json() for f in audit(ds, frozen)),
        dropped_perturbations=tuple(sorted({k.split("|")[1] for k in unused}))
        if "context" in frozen.split.ood_axes
        else (),
    )
    if bounds:
        ceiling, floor, no_signal = bounds_of(
            ds, frozen, progress=lambda done, n: progress(f"split-half ceiling, halving {done} of {n}")
        )
        stats = stats.model_copy(update={"ceiling": ceiling, "floor": floor, "no_signal": no_signal})
    return stats


def stats_with_bounds(store: ArtifactStore, ds: PerturbDataset, frozen: FrozenSplit) -> SplitStats:
    """Return a split's statistics, computing and storing ceilings and floors if they are not there yet."""
    folder = SplitFolder(store.split_dir)
    stats = folder.stats(frozen.hash)
    if stats is None or stats.ceiling is None:
        computed = split_stats(ds, frozen)
        stats = computed if stats is None else computed.model_copy(update={"supersedes": stats.supersedes})
        folder.save_stats(frozen.hash, stats)
    return stats


def migrate_split(
    store: ArtifactStore, old: FrozenSplit, ds: PerturbDataset
) -> tuple[FrozenSplit, SplitStats]:
    """Carry a split over to a new version of its data, if every condition keeps its fold.

    Raises
    ------
    SplitError
        If conditions (or, by row, row ids) differ, naming what differs.
    """
    split = old.split
    if split.dataset.content_sha256 == ds.content_sha256:
        msg = f"split {old.hash[:12]} already belongs to this data; there is nothing to migrate"
        raise SplitError(msg)
    ref = split.dataset.model_copy(
        update={"name": ds.name, "content_sha256": ds.content_sha256, "genes_sha256": ds.genes_sha256}
    )
    cv = split.cv
    if cv is not None:
        # Folds that are carried over meet in a group of their own: never pooled with those on the old data.
        cv = cv.model_copy(update={"group": content_hash([cv.group, ds.content_sha256])[:16]})
    new = FrozenSplit(split.model_copy(update={"dataset": ref, "cv": cv}), old.row_codes)
    if isinstance(split.folds, RowFolds):
        treated = ds.condition_codes >= 0
        codes = new.codes(ds)
        if not np.array_equal(codes >= 0, treated):
            msg = f"control rows of {ds.name!r} are not those split {old.hash[:12]} was frozen with; freeze a new one"
            raise SplitError(msg)
    require_clean(ds, new)
    stats = split_stats(ds, new).model_copy(update={"supersedes": old.hash})
    SplitFolder(store.split_dir).save(new, stats)
    return new, stats


# ---- one cell of the grid --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """An immutable object that a stage made or found.

    Attributes
    ----------
    key, path
        Its identity and directory under ``runs/.objects``.
    reused
        Whether it was there already.
    """

    key: str
    path: Path
    reused: bool


def why_not(traits: Any, entry: ModelEntry) -> str | None:
    """Return why an entry cannot run on a split with these traits, None if it can."""
    return applicable(traits, MODELS.get(entry.model).requires)


def model_key(ds: PerturbDataset, frozen: FrozenSplit, config: RunConfig) -> str:
    """Return the identity of a fitted model: data, split, configuration with seed, code."""
    return content_hash(
        {
            "stage": "model",
            "data": ds.content_sha256,
            "split": frozen.hash,
            "config": config.config_hash,
            "code": numeric_code(),
        }
    )


def fit(
    store: ArtifactStore,
    ds: PerturbDataset,
    frozen: FrozenSplit,
    config: RunConfig,
    progress: Progress = quiet,
) -> Stage:
    """Fit a model on a split, or find the one that was fitted with the same inputs and code.

    Data and split are verified and audited first, whoever calls; one of the training slots is held.
    """
    frozen.check_dataset(ds)
    warnings = require_clean(ds, frozen)
    key = model_key(ds, frozen, config)
    path = store.object(key)
    if path.is_dir():
        return Stage(key, path, reused=True)
    model = new_model(config.model, config.params)
    view = train_view(ds, frozen)

    with store.training_slot(lambda: progress("waiting for a training slot")) as slots:
        if path.is_dir():
            return Stage(key, path, reused=True)

        def fill(folder: Path) -> None:
            progress(f"fitting {config.entry}, seed {config.seed}")
            with threadpool_limits(limits=max(1, _cores() // slots)):
                start = time.perf_counter()
                model.fit(view, config.seed)
                seconds = time.perf_counter() - start
                save_model(model, folder)
                write_json(
                    folder / "fit.json",
                    {
                        "fit_s": seconds,
                        "environment": environment(),
                        "audit": [w.to_json() for w in warnings],
                        "fallback_control_rows": _fallback_rows(ds, frozen),
                    },
                )

        store.put_object(key, fill)
    return Stage(key, path, reused=False)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


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
    key = content_hash({"stage": "prediction", "model": model_key(ds, frozen, config)})
    if store.object(key).is_dir():
        return Stage(key, store.object(key), reused=True)
    fitted = fit(store, ds, frozen, config, progress)
    progress(f"predicting with {config.entry}, seed {config.seed}")
    model = load_model(fitted.path)

    def fill(folder: Path) -> None:
        start = time.perf_counter()
        write_prediction(predict_rows(ds, frozen, model), folder / schema.PREDICTIONS_FILE)
        write_json(folder / "predict.json", {"predict_s": time.perf_counter() - start})

    return Stage(key, store.put_object(key, fill), reused=False)


def predict_rows(ds: PerturbDataset, frozen: FrozenSplit, model: Model) -> RowPrediction:
    """Return a model's prediction for the test rows of a split, one row of means per condition.

    The model is given the names of the test conditions and their matched input controls, nothing else.
    """
    rows = frozen.rows(ds, "test")
    codes = ds.condition_codes[rows]
    present, row = np.unique(codes, return_inverse=True)
    conditions = ds.conditions.iloc[present]
    prediction = model.predict(Query(conditions, ds.genes, _input_controls(ds, rows)))
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
    )


def _input_controls(ds: PerturbDataset, rows: Any) -> Any:
    return condition_table(ds, rows).control.get("input")


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
) -> Scores:
    """Score any prediction on a split with every panel (or the named ones)."""
    comparison = compare(ds, frozen, prediction, _observed(ds, frozen))
    table = evaluate(
        comparison, panels, level=ds.metadata.level, strata={**stats.strata, **saturation_strata(comparison)}
    ).table()
    metrics = metrics_json(table)
    uncertainty = metrics.get("uncertainty", {})
    calibration = {
        "method": "none",
        "variance": "filled constant" if comparison.var_filled else variance_source,
        "n_test_conditions": len(comparison),
        "coverage": uncertainty.get("coverage"),
        "nll": uncertainty.get("nll"),
    }
    return Scores(table, metrics, calibration, comparison, stats)


_OBSERVED: dict[tuple[str, str], Any] = {}


def _observed(ds: PerturbDataset, frozen: FrozenSplit) -> Any:
    """Return the observed side of a split, kept for the next entry on it."""
    key = (ds.content_sha256, frozen.hash)
    if key not in _OBSERVED:
        while len(_OBSERVED) >= 2:
            _OBSERVED.pop(next(iter(_OBSERVED)))
        _OBSERVED[key] = observed(ds, frozen)
    return _OBSERVED[key]


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
    source = _variance_source(store.object(model_key(ds, frozen, config)))

    def fill(folder: Path) -> None:
        prediction = read_prediction(predicted.path / schema.PREDICTIONS_FILE)
        scores = score_prediction(ds, frozen, prediction, stats, variance_source=source)
        scores.table.to_parquet(folder / schema.SCORES_FILE, index=False)
        write_json(folder / schema.METRICS_FILE, scores.metrics)
        write_json(folder / schema.CALIBRATION_FILE, scores.calibration)

    return Stage(key, store.put_object(key, fill), reused=False)


def _variance_source(model_path: Path) -> str:
    meta = model_path / schema.MODEL_META_FILE
    training = read_json(meta).get("training", {}) if meta.is_file() else {}
    return f"{training.get('variance', {}).get('source', 'unknown')} residuals"


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
    stats = stats_with_bounds(store, ds, frozen)
    progress(f"writing the report of {config.entry}, seed {config.seed}")
    comparison = compare(
        ds, frozen, read_prediction(predicted.path / schema.PREDICTIONS_FILE), _observed(ds, frozen)
    )
    table = pd.read_parquet(scored.path / schema.SCORES_FILE)
    fit_info = read_json(fitted.path / "fit.json")
    meta = {
        **run_meta(ds, frozen, comparison, stats),
        "entry": config.entry,
        "model": config.model,
        "family": MODELS.get(config.model).family,
        "params": config.params,
        "seed": config.seed,
        "config_hash": config.config_hash,
        "entry_hash": config.entry_hash,
        "objects": {"model": fitted.key, "prediction": predicted.key, "scores": scored.key},
        "parent_run": parent_run(store, frozen, config, scored.key),
        "environment": fit_info["environment"],
        "audit": fit_info["audit"],
        "fallback_control_rows": fit_info["fallback_control_rows"],
        "timings": {
            "fit_s": fit_info["fit_s"],
            "predict_s": read_json(predicted.path / "predict.json")["predict_s"],
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
                (predicted.path, (schema.PREDICTIONS_FILE,)),
                (scored.path, (schema.METRICS_FILE, schema.CALIBRATION_FILE)),
            ):
                for name in names:
                    # A copy: whoever edits a run in place must not change the object that others reuse.
                    shutil.copyfile(source / name, folder / name)
            training = read_json(fitted.path / schema.MODEL_META_FILE)["training"]
            write_json(folder / schema.TRAINING_FILE, training)
            write_json(folder / schema.CONFIG_FILE, meta)
            write_atomic(folder / schema.SPLIT_HASH_FILE, frozen.hash + "\n")
            named_scores(table, meta).to_parquet(folder / schema.SCORES_FILE, index=False)
            report = run_report(meta, table, comparison, frozen.split, stats)
            write_atomic(folder / schema.REPORT_FILE, report)
            try:
                staging.publish(destination)
            except (StoreError, OSError):
                # The same cell, published by another process in the same second, has this id.
                if not destination.exists():
                    raise
                continue
        return destination


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
    scores = score_prediction(ds, frozen, prediction, stats, variance_source=_source_beside(predictions))
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
    report = run_report(meta, scores.table, scores.comparison, frozen.split, stats)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / schema.METRICS_FILE, scores.metrics)
    write_json(out / schema.CALIBRATION_FILE, scores.calibration)
    write_json(out / schema.CONFIG_FILE, meta)
    write_atomic(out / schema.SCORES_FILE, parquet_bytes(named_scores(scores.table, meta)))
    write_atomic(out / schema.REPORT_FILE, report)
    return scores


def _source_beside(predictions: Path) -> str:
    beside = predictions.parent
    return _variance_source(beside) if (beside / schema.MODEL_META_FILE).is_file() else "as given"


# ---- over all runs ----------------------------------------------------------------------------------------


def rank(store: ArtifactStore) -> Path:
    """Rebuild and publish the leaderboard and its page; return the database file."""
    target = database.rebuild(store, lambda: split_table(store), lambda: dataset_table(store))
    with database.connect(store) as con:
        board = con.execute("SELECT * FROM leaderboard").df()
        n_runs = int(con.execute("SELECT count(*) FROM runs").df().iloc[0, 0])
    write_atomic(store.leaderboard_page, leaderboard_page(board, n_runs))
    return target
