"""Stage `trained_model`: an entry fitted on a split's train rows and calibrated on conditions it did not see."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.gene_bins import gene_scale
from perturbfm_core.data.prediction import OutOfFold
from perturbfm_core.evaluation.inner import inner_scores
from perturbfm_core.graphs.side_info import SideInfo
from perturbfm_core.graphs.spectral_store import spectra_kept_in
from perturbfm_core.models.base import Model, save_model
from perturbfm_core.pipeline.experiment import Experiment, ModelConfig
from perturbfm_core.progress import epoch_listener, run_of
from perturbfm_core.splits.audit.own import fit_records
from perturbfm_core.splits.audit.run import FitRecord
from perturbfm_core.splits.residuals import as_scored, calibration_fold
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import TrainView, train_view
from perturbfm_core.store.artifacts import Artifact
from perturbfm_core.store.atomic import write_atomic, write_json
from perturbfm_core.store.machine import cores, environment
from perturbfm_core.store.usage import Usage
from perturbfm_core.uncertainty.calibrator import Calibrator, save_calibrator
from perturbfm_core.uncertainty.guard import guard_of

FIT_FILE = "fit.json"


def fit(e: Experiment) -> Artifact:
    """Fit an experiment's model, or find the one that was fitted with the same inputs and code.

    The split is audited first, whoever calls; one of the training slots is held. A training that was interrupted
    goes on from its last checkpoint.

    Returns
    -------
    Artifact
        ``model.safetensors``, ``model.json``, the calibrator, ``fit.json`` and ``audit.json``.

    Raises
    ------
    SplitError
        If the split is of other data, or the audit blocks it.
    ModelError
        If there is nothing to fit on, or the fit is not finite.
    """
    # The audit comes before the look-up: an old fit of a leaking split must not be served either.
    _ = e.findings
    key = e.keys.model
    if (found := e.store.find(key)) is not None:
        return found
    model = e.config.new_model()
    model.side_info = e.side_info
    model.on_epoch, model.checkpoints = epoch_listener(e.tell), e.store.checkpoints(key)

    with e.store.training_slot(run_of(e.tell, e.name), e.tell) as slots:
        # Another process may have fitted it while this one waited.
        if (found := e.store.find(key)) is not None:
            return found

        def fill(folder: Path) -> None:
            e.tell(f"fitting {e.config.entry}, seed {e.config.seed}")
            with threadpool_limits(limits=max(1, cores() // slots)), spectra_kept_in(e.store):
                _fit_into(folder, e, model)

        path = e.store.put_object(key, fill)
    shutil.rmtree(e.store.checkpoints(key), ignore_errors=True)
    return Artifact(key, path, reused=False)


def _fit_into(folder: Path, e: Experiment, model: Model) -> None:
    """Fit `model` and write everything that the fit leaves into `folder`."""
    view = train_view(e.dataset, e.split)
    if e.look_ahead is not None:
        model.ahead = e.look_ahead(view)
    start = time.perf_counter()
    with Usage() as used:
        model.fit(view, e.config.seed)
    seconds = time.perf_counter() - start
    save_model(model, folder)
    save_calibrator(fit_calibrator(e.dataset, e.split, view, model, e.config), folder)
    write_json(
        folder / FIT_FILE,
        {
            "fit_s": seconds,
            "cost": {
                "fit_cpu_s": used.cpu_s + model.cpu_s_elsewhere,
                "fit_peak_bytes": max(used.peak_bytes or 0, model.peak_bytes_elsewhere) or None,
            },
            "environment": environment(),
            "fallback_control_rows": _fallback_rows(e.dataset, e.split),
            "graph_hash": e.side_info.graph_hash,
            "side_info": e.side_info.digests,
            "sources": [asdict(use) for use in e.side_info.sources],
            "inner_folds": inner_scores(model.oof, view.delta.mean(axis=0)),
        },
    )
    records = fit_records(e.dataset, e.split, view, e.config.entry, made_of(e.side_info))
    write_atomic(folder / schema.RECORDS_FILE, records.model_dump_json(exclude_none=True))


def fit_calibrator(
    ds: PerturbDataset, split: FrozenSplit, view: TrainView, model: Model, config: ModelConfig
) -> Calibrator:
    """Fit the calibrator of a fitted model on its split's calibration fold, else on its own inner folds.

    Where the split calibrates on nothing, or the model could hold nothing out, the calibrator changes nothing
    and says why.

    Parameters
    ----------
    ds, split
        Data and split.
    view
        The train view that the model was fitted on.
    model
        The fitted model, its out-of-fold predictions in `Model.oof`.
    config
        Its configuration, whose uncertainty block says how to calibrate.
    """
    asked, policy = config.uncertainty, split.definition.calibration
    if policy == "none":
        return Calibrator.without(asked, "the split has neither a calibration fold nor inner folds")
    inner = None if model.oof is None or not len(model.oof) else as_scored(ds, split, model.oof)
    residuals: OutOfFold | None = inner
    if policy == "fold":
        residuals = as_scored(ds, split, calibration_fold(ds, split, view, model.predict))
        if not len(residuals):
            return Calibrator.without(asked, "none of the calibration conditions is predicted")
    if residuals is None:
        reason = "the model's residuals are those of its own fit: its inner folds hold nothing out"
        return Calibrator.without(asked, reason)
    guard = guard_of(ds, split)
    return Calibrator.fit(
        asked,
        residuals,
        guard,
        gene_scale(view.delta),
        for_scaling=inner or residuals,
        variance_reads_them=policy == "fold" and model.variance_of_calibration_fold,
    )


def made_of(side_info: SideInfo) -> tuple[FitRecord, ...]:
    """Return what the leakage audit reads of graphs, features and donors: which rows each was made from."""
    public = {(u.what, u.name): f"{u.source} {u.version}, {u.sha256[:12]}" for u in side_info.sources}
    graphs = [
        FitRecord(
            what="graph",
            name=name,
            split_hash=graph.split_hash,
            rows="external" if graph.split_hash is None else "fit",
            source=public.get(("graph", name)),
        )
        for name, graph in side_info.graphs.items()
    ]
    tables = [
        FitRecord(what="embedding", name=name, rows="external", source=public.get(("features", name)))
        for name in side_info.features
    ]
    if side_info.masks is not None:
        tables.append(FitRecord(what="embedding", name="perturbation masks", rows="external"))
    tables += [d.record for d in side_info.donors.values() if d.record is not None]
    encoder = side_info.encoder
    if encoder is None:
        return (*graphs, *tables)
    made = FitRecord(what="encoder", name=str(encoder.path.name), split_hash=encoder.split_hash, rows="fit")
    return (*graphs, *tables, made)


def _fallback_rows(ds: PerturbDataset, split: FrozenSplit) -> int:
    """Return how many fitted rows have no controls of their own batch, and use their context's."""
    if not ds.has_controls:
        return 0
    fit_rows = np.zeros(ds.n_obs, dtype=np.bool_)
    fit_rows[split.rows(ds, *split.fit_folds)] = True
    return ds.controls.fallback_rows("input", fit_rows)
