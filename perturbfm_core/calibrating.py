"""Calibration of an entry: the model as configured, its calibrator fitted and applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.gene_bins import gene_scale
from perturbfm_core.data.prediction import OutOfFold
from perturbfm_core.models import Model, new_model
from perturbfm_core.runs import RunConfig
from perturbfm_core.splits.residuals import as_scored, calibration_fold
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import TrainView
from perturbfm_core.store import read_json
from perturbfm_core.uncertainty import Calibrator, guard_of


def configured_model(config: RunConfig) -> Model:
    """Return the unfitted model of a run: the entry's own, or an ensemble of it."""
    asked = config.uncertainty
    if asked.ensemble == 1:
        return new_model(config.model, config.params)
    members = {"model": config.model, "params": config.params, "members": asked.ensemble, "bag": asked.bag}
    return new_model("ensemble", members)


def fit_calibrator(
    ds: PerturbDataset, frozen: FrozenSplit, view: TrainView, model: Model, config: RunConfig
) -> Calibrator:
    """Fit the calibrator of a fitted model on its split's calibration fold, else on its own inner folds.

    Where the split calibrates on nothing, or the model could hold nothing out, the calibrator changes nothing
    and says why.
    """
    asked, policy = config.uncertainty, frozen.split.calibration
    if policy == "none":
        return Calibrator.without(asked, "the split has neither a calibration fold nor inner folds")
    inner = None if model.oof is None or not len(model.oof) else as_scored(ds, frozen, model.oof)
    residuals: OutOfFold | None = inner
    if policy == "fold":
        residuals = as_scored(ds, frozen, calibration_fold(ds, frozen, view, model.predict))
    if residuals is None:
        reason = "the model's residuals are those of its own fit: its inner folds hold nothing out"
        return Calibrator.without(asked, reason)
    return Calibrator.fit(
        asked, residuals, guard_of(ds, frozen), gene_scale(view.delta), for_scaling=inner or residuals
    )


def calibration_of(folder: Path) -> dict[str, Any]:
    """Return what the calibrator in a folder says of itself; a method of ``none`` where there is none."""
    meta = folder / schema.CALIBRATOR_META_FILE
    if not meta.is_file():
        return {
            "method": "none",
            "reason": "the prediction came without a calibrator",
            "guarantee": "unknown",
        }
    info: dict[str, Any] = read_json(meta)["info"]
    return info
