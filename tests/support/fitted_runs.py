"""Runs fitted in memory and opened for screening, without a store."""

from __future__ import annotations

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.pipeline.experiment import ModelConfig
from perturbfm_core.pipeline.trained_model import fit_calibrator
from perturbfm_core.screening.fitted_run import FittedRun
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import train_view
from perturbfm_core.store.run_record import RunRecord
from tests.support.factories import run_config


def fitted_run(ds: PerturbDataset, split: FrozenSplit, model: str) -> FittedRun:
    """Return a calibrated run of a model; a version of PerturbFM is its core alone."""
    params = {"gate": "off"} if model.startswith("perturbfm") else {}
    config = ModelConfig(entry="x", model=model, params=params, seed=0)
    fitted, view = config.new_model(), train_view(ds, split)
    fitted.fit(view, config.seed)
    calibrator = fit_calibrator(ds, split, view, fitted, config)
    record = {**run_config("x", data=ds.content_sha256, split=split.hash), "model": model}
    return FittedRun(RunRecord.model_validate(record), ds, split, fitted, calibrator)
