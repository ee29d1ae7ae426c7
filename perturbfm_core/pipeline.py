"""The map: from a data set to the leaderboard, one function per stage.

``import_dataset -> freeze_split -> fit -> predict -> score -> render``, and over all runs ``rank``. The
Dagster assets and the command line call these functions and nothing else; each leaves one artifact.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from perturbfm_core import schema
from perturbfm_core.catalog import Catalog, load_catalog, to_yaml, user_folder
from perturbfm_core.config import (
    DatasetEntry,
    Frozen,
    ModelEntry,
    SplitSpec,
    SuiteEntry,
    check_key,
    content_hash,
    parse,
    slug,
)
from perturbfm_core.data.artifact import Storage, load_dataset, write_dataset
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import RowPrediction, read_prediction, write_prediction
from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.data.table import condition_table
from perturbfm_core.errors import ConfigError, DatasetError, SplitError
from perturbfm_core.evaluation.ceilings import bounds_of
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.evaluation.panel import evaluate, metrics_json
from perturbfm_core.leaderboard import database
from perturbfm_core.models import MODELS, Model, applicable, load_model, new_model, save_model
from perturbfm_core.provenance import environment, numeric_code, scoring_code
from perturbfm_core.reports.leaderboard_page import leaderboard_page
from perturbfm_core.reports.run_report import run_report
from perturbfm_core.splits.audit import audit, require_clean
from perturbfm_core.splits.folder import SplitFolder, SplitStats, row_digests, traits_of
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.split import ConditionFolds, FrozenSplit, RowFolds
from perturbfm_core.splits.strata import strata_of
from perturbfm_core.splits.view import Query, train_view
from perturbfm_core.store import ArtifactStore, read_json, write_atomic, write_json

Progress = Callable[[str], None]


def _quiet(_: str) -> None:
    """Ignore progress."""


class RunConfig(Frozen):
    """What decides a fit beside data, split and code: its hash names the run."""

    entry: str
    model: str
    params: dict[str, Any]
    seed: int

    @property
    def config_hash(self) -> str:
        """Return the hash with the seed."""
        return content_hash(self.model_dump(mode="json"))

    @property
    def entry_hash(self) -> str:
        """Return the hash without the seed: all seeds of one configuration share it."""
        return content_hash(self.model_dump(mode="json", exclude={"seed"}))


def run_configs(entry: ModelEntry) -> list[RunConfig]:
    """Return one resolved configuration per seed of a catalog entry."""
    params = new_model(entry.model, entry.params).params.model_dump(mode="json")
    return [RunConfig(entry=entry.name, model=entry.model, params=params, seed=seed) for seed in entry.seeds]


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


def register_dataset(store: ArtifactStore, name: str, path: Path, description: str) -> Path:
    """Write a catalog entry for a data set artifact and return the file."""
    check_key(name, "data set name")
    catalog = load_catalog()
    target = user_folder() / "datasets" / f"{name}.yaml"
    if name in catalog.datasets and not target.exists():
        msg = f"the catalog already has a data set {name!r}; give another --name"
        raise ConfigError(msg)
    entry = DatasetEntry(
        name=name,
        description=description,
        source="artifact",
        path=str(path.resolve()),
        content_sha256=_metadata(path)["content_sha256"],
    )
    write_atomic(target, to_yaml(entry))
    return target


def open_dataset(path: Path | str) -> PerturbDataset:
    """Open a data set artifact; the same unchanged one is opened once per process."""
    path = Path(path)
    meta = path / schema.META_FILE
    stamp = meta.stat().st_mtime_ns if meta.is_file() else 0
    return _open(path.resolve() if meta.is_file() else path, stamp)


@lru_cache(maxsize=4)
def _open(path: Path, _stamp: int) -> PerturbDataset:
    return load_dataset(path)


def ensure_dataset(store: ArtifactStore, entry: DatasetEntry, progress: Progress = _quiet) -> Path:
    """Return the artifact of a catalog data set, simulating it on first use.

    Raises
    ------
    DatasetError
        If an artifact is missing, or its content is not what the catalog states.
    """
    path = store.dataset(entry.name) if entry.path is None else store.home / entry.path
    if not (path / schema.META_FILE).is_file():
        if entry.source != "synth":
            msg = f"data set {entry.name!r} is not at {path}; import it with `perturbfm data import`"
            raise DatasetError(msg)
        with store.lock(f"dataset-{entry.name}"):
            if not (path / schema.META_FILE).is_file():
                progress(f"simulating {entry.name}")
                config = parse(
                    SimulationConfig, {**entry.synth, "name": entry.name}, f"synth of {entry.name!r}"
                )
                ds, truth = simulate(config)
                _check_content(entry, ds.computed_sha256)
                write_dataset(ds, path, entry.storage, truth=truth.arrays())
    _check_content(entry, str(_metadata(path)["content_sha256"]))
    return path


def _check_content(entry: DatasetEntry, found: str) -> None:
    if entry.content_sha256 and found != entry.content_sha256:
        msg = (
            f"data set {entry.name!r} has content {found[:12]}, the catalog states {entry.content_sha256[:12]}; "
            "its splits and results do not hold for it"
        )
        raise DatasetError(msg)


def _metadata(path: Path) -> dict[str, Any]:
    meta: dict[str, Any] = read_json(path / schema.META_FILE, DatasetError)["metadata"]
    return meta


def find_dataset(store: ArtifactStore, frozen: FrozenSplit, catalog: Catalog | None = None) -> Path | None:
    """Return the artifact with a split's content: from the catalog or under ``data/``, else None."""
    catalog = catalog or load_catalog()
    wanted = frozen.split.dataset.content_sha256
    entry = catalog.datasets.get(frozen.split.dataset.name)
    places = [store.home / e.path for e in catalog.datasets.values() if e.path]
    for path in [store.dataset(frozen.split.dataset.name), *places, *store.datasets()]:
        if (path / schema.META_FILE).is_file() and _metadata(path).get("content_sha256") == wanted:
            return path
    if entry is not None and entry.source == "synth" and entry.content_sha256 == wanted:
        return ensure_dataset(store, entry)
    return None


def dataset_of(store: ArtifactStore, frozen: FrozenSplit, path: Path | None = None) -> PerturbDataset:
    """Open the data set of a split, at `path` or wherever the store has it.

    Raises
    ------
    DatasetError
        If it is not at hand.
    """
    found = path or find_dataset(store, frozen)
    if found is None:
        ref = frozen.split.dataset
        msg = f"data set {ref.name!r} ({ref.content_sha256[:12]}) of split {frozen.hash[:12]} is not at hand; give --data DIR"
        raise DatasetError(msg)
    return open_dataset(found)


# ---- splits ----------------------------------------------------------------------------------------------


def freeze_split(
    store: ArtifactStore,
    ds: PerturbDataset,
    spec: SplitSpec,
    *,
    bounds: bool = True,
    progress: Progress = _quiet,
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
    folder = SplitFolder(store.split_dir)
    frozen_all = freeze(ds, spec)
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
    ds: PerturbDataset, frozen: FrozenSplit, *, bounds: bool = True, progress: Progress = _quiet
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
        strata=strata_of(ds, frozen),
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
    new = FrozenSplit(split.model_copy(update={"dataset": ref}), old.row_codes)
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
    progress: Progress = _quiet,
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
    import os

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
    progress: Progress = _quiet,
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
    def flags(self) -> dict[str, bool]:
        """Return the flags that every reader of these scores must see."""
        return {
            "no_signal": bool(self.stats.no_signal),
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
    table = evaluate(comparison, panels, level=ds.metadata.level, strata=stats.strata).table()
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
    progress: Progress = _quiet,
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
    progress: Progress = _quiet,
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
    run_id = store.new_run_id(frozen.hash, config.entry, config.config_hash)
    meta = {
        **_run_meta(ds, frozen, comparison, stats),
        "run_id": run_id,
        "entry": config.entry,
        "model": config.model,
        "family": MODELS.get(config.model).family,
        "params": config.params,
        "seed": config.seed,
        "config_hash": config.config_hash,
        "entry_hash": config.entry_hash,
        "objects": {"model": fitted.key, "prediction": predicted.key, "scores": scored.key},
        "parent_run": _parent_run(store, frozen, config, scored.key),
        "environment": fit_info["environment"],
        "audit": fit_info["audit"],
        "fallback_control_rows": fit_info["fallback_control_rows"],
        "timings": {
            "fit_s": fit_info["fit_s"],
            "predict_s": read_json(predicted.path / "predict.json")["predict_s"],
        },
    }
    with store.stage() as staging:
        folder = staging.path
        for source, names in (
            (fitted.path, (schema.MODEL_FILE, schema.MODEL_META_FILE)),
            (predicted.path, (schema.PREDICTIONS_FILE,)),
            (scored.path, (schema.METRICS_FILE, schema.CALIBRATION_FILE)),
        ):
            for name in names:
                _link(source / name, folder / name)
        write_json(folder / schema.TRAINING_FILE, read_json(fitted.path / schema.MODEL_META_FILE)["training"])
        write_json(folder / schema.CONFIG_FILE, meta)
        write_atomic(folder / schema.SPLIT_HASH_FILE, frozen.hash + "\n")
        named_scores(table, meta).to_parquet(folder / schema.SCORES_FILE, index=False)
        write_atomic(folder / schema.REPORT_FILE, run_report(meta, table, comparison, frozen.split, stats))
        destination = store.run(run_id)
        staging.publish(destination)
    return destination


def _link(source: Path, target: Path) -> None:
    """Give an immutable object's file a second name, or copy it where links are not possible."""
    import os
    import shutil

    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _parent_run(store: ArtifactStore, frozen: FrozenSplit, config: RunConfig, scores_key: str) -> str | None:
    """Return the newest run of the same configuration whose scores were others, if any."""
    tail = f"_{frozen.hash[:7]}_{config.entry}_{config.config_hash[:8]}"
    for path in reversed(store.run_dirs()):
        if tail in path.name:
            old = read_json(path / schema.CONFIG_FILE)
            if old.get("objects", {}).get("scores") != scores_key:
                return str(old["run_id"])
            return None
    return None


def _run_meta(
    ds: PerturbDataset, frozen: FrozenSplit, comparison: Comparison, stats: SplitStats
) -> dict[str, Any]:
    split = frozen.split
    return {
        "schema_version": schema.RUN_SCHEMA_VERSION,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        + f".{time.time_ns() // 1000 % 1_000_000:06d}",
        "dataset": {"name": ds.name, "content_sha256": ds.content_sha256},
        "split": {
            "hash": frozen.hash,
            "key": split.key,
            "kind": split.kind,
            "cv": split.cv.model_dump(mode="json") if split.cv else None,
        },
        "graph_hash": None,
        "flags": {
            "no_signal": bool(stats.no_signal),
            "shared_control": bool(comparison.shared_control.any()),
        },
        "alignment": comparison.alignment,
        "var_filled": comparison.var_filled,
        "notes": comparison.notes,
    }


def named_scores(table: pd.DataFrame, meta: dict[str, Any]) -> pd.DataFrame:
    """Return scores with the columns that name their run, in the order of the schema."""
    out = table.assign(
        run_id=meta["run_id"],
        dataset=meta["dataset"]["name"],
        split_hash=meta["split"]["hash"],
        split_kind=meta["split"]["kind"],
        entry=meta["entry"],
        config_hash=meta["config_hash"],
        seed=meta["seed"],
    )
    return out[list(schema.SCORE_COLUMNS)]


def run_cell(
    store: ArtifactStore,
    split: str,
    entry: ModelEntry,
    *,
    data: Path | None = None,
    progress: Progress = _quiet,
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
    prediction = read_prediction(predictions)
    stats = stats_with_bounds(store, ds, frozen)
    scores = score_prediction(ds, frozen, prediction, stats, variance_source=_source_beside(predictions))
    meta = {
        **_run_meta(ds, frozen, scores.comparison, stats),
        "run_id": out.name,
        "entry": entry,
        "model": "external",
        "family": "external",
        "params": {},
        "seed": 0,
        "config_hash": content_hash({"predictions": _file_digest(predictions)}),
        "entry_hash": content_hash({"predictions": _file_digest(predictions)}),
        "environment": environment(),
        "timings": {},
        "audit": list(stats.audit),
    }
    report = run_report(meta, scores.table, scores.comparison, frozen.split, stats)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / schema.METRICS_FILE, scores.metrics)
    write_json(out / schema.CALIBRATION_FILE, scores.calibration)
    write_json(out / schema.CONFIG_FILE, meta)
    write_atomic(out / schema.SCORES_FILE, _parquet(named_scores(scores.table, meta)))
    write_atomic(out / schema.REPORT_FILE, report)
    return scores


def _source_beside(predictions: Path) -> str:
    beside = predictions.parent
    return _variance_source(beside) if (beside / schema.MODEL_META_FILE).is_file() else "as given"


def _file_digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parquet(table: pd.DataFrame) -> bytes:
    import io

    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


HEADLINE_SQL = (
    "SELECT board, rank, entry, value AS pearson, ci_low, ci_high, diff_best_baseline, ceiling, null_floor, no_signal "
    "FROM leaderboard WHERE panel = 'delta' AND metric = 'pearson' ORDER BY board, rank NULLS LAST, entry"
)

# ---- over all runs ---------------------------------------------------------------------------------------


def rank(store: ArtifactStore) -> Path:
    """Rebuild and publish the leaderboard and its page; return the database file."""
    target = database.rebuild(store, lambda: _split_table(store), lambda: _dataset_table(store))
    with database.connect(store) as con:
        board = con.execute("SELECT * FROM leaderboard").df()
        n_runs = int(con.execute("SELECT count(*) FROM runs").df().iloc[0, 0])
    write_atomic(store.leaderboard_page, leaderboard_page(board, n_runs))
    return target


_SPLIT_COLUMNS = [
    "split_hash",
    "split_key",
    "dataset",
    "data_sha256",
    "kind",
    "board",
    "cv_group",
    "cv_fold",
    "cv_k",
    "unit",
    "validation",
    "calibration",
    "n_train",
    "n_val",
    "n_calib",
    "n_test",
    "n_unused",
    "no_signal",
    "ceiling_pearson",
    "null_pearson",
    "ceiling",
    "floor",
]


def _split_table(store: ArtifactStore) -> pd.DataFrame:
    folder = SplitFolder(store.split_dir)
    rows = []
    for split_hash in folder.hashes():
        split = folder.load(split_hash).split
        stats = folder.stats(split_hash)
        counts = stats.counts if stats else {}
        ceiling, floor = (stats.ceiling, stats.floor) if stats else (None, None)
        board = f"{slug(split.dataset.name)}.{split.kind}.cv-{split.cv.group[:12]}" if split.cv else split.key
        rows.append(
            {
                "split_hash": split_hash,
                "split_key": split.key,
                "dataset": split.dataset.name,
                "data_sha256": split.dataset.content_sha256,
                "kind": split.kind,
                "board": board,
                "cv_group": split.cv.group if split.cv else None,
                "cv_fold": split.cv.fold if split.cv else None,
                "cv_k": split.cv.k if split.cv else None,
                "unit": split.unit,
                "validation": split.validation,
                "calibration": split.calibration,
                **{f"n_{f}": counts.get(f, {}).get("conditions", 0) for f in schema.FOLDS},
                "no_signal": stats.no_signal if stats else None,
                "ceiling_pearson": ((ceiling or {}).get("pearson") or {}).get("half"),
                "null_pearson": ((floor or {}).get("null") or {}).get("pearson"),
                "ceiling": ceiling,
                "floor": floor,
            }
        )
    return pd.DataFrame(rows, columns=_SPLIT_COLUMNS)


def _dataset_table(store: ArtifactStore) -> pd.DataFrame:
    rows = []
    places = {p.resolve(): p for p in store.datasets()}
    for entry in load_catalog().datasets.values():
        path = store.home / entry.path if entry.path else store.dataset(entry.name)
        if (path / schema.META_FILE).is_file():
            places.setdefault(path.resolve(), path)
    for path in places.values():
        meta = read_json(path / schema.META_FILE, DatasetError)
        info = meta["metadata"]
        obs = meta["obs"]
        rows.append(
            {
                "dataset": info["name"],
                "data_sha256": info["content_sha256"],
                "level": info["level"],
                "space": info["space"],
                "n_obs": obs.get("n_obs", len(obs.get(schema.PERT_ID, []))),
                "n_genes": len(meta["var"]),
                "source": info["source"],
                "licence": info["licence"],
                "path": str(path),
            }
        )
    columns = ["dataset", "data_sha256", "level", "space", "n_obs", "n_genes", "source", "licence", "path"]
    return pd.DataFrame(rows, columns=columns)


# ---- suites ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One (split, entry) of a suite, with the reason if it cannot exist."""

    split: str
    entry: str
    reason: str | None


def suite_splits(store: ArtifactStore, suite: SuiteEntry, progress: Progress = _quiet) -> list[str]:
    """Return the hashes of a suite's splits, making data sets and freezing splits that are missing."""
    catalog = load_catalog()
    folder = SplitFolder(store.split_dir)
    hashes = []
    for group in suite.grid:
        ds = open_dataset(ensure_dataset(store, catalog.dataset(group.dataset), progress))
        for spec in group.splits:
            for frozen in freeze(ds, spec):
                if frozen.hash not in folder.hashes():
                    freeze_split(store, ds, spec, progress=progress)
                hashes.append(frozen.hash)
    return hashes


def suite_cells(store: ArtifactStore, suite: SuiteEntry, hashes: Iterable[str]) -> list[Cell]:
    """Return the cells of a suite: its splits times its entries."""
    catalog = load_catalog()
    index = {e.hash: e for e in SplitFolder(store.split_dir).index().splits}
    return [
        Cell(h, name, why_not(index[h].traits, catalog.model(name))) for h in hashes for name in suite.models
    ]


def dumps(value: Any, indent: int | None = 1) -> str:
    """Return JSON text for printing, NaN as null."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value
