"""Calibrator of an entry: fitted once on residuals of unseen conditions and applied to every prediction.

Scaling and conformal quantiles are fitted on the same residuals unless the split has a calibration fold. In
that case scaling is fitted on the inner folds of train, so that the calibration fold is used for the
quantiles alone and the guarantee of `hierarchical` holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from perturbfm_core import schema
from perturbfm_core.config import parse
from perturbfm_core.data.gene_bins import gene_bins
from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.errors import ModelError
from perturbfm_core.schema import FloatArray
from perturbfm_core.store.atomic import read_json, write_json
from perturbfm_core.uncertainty.config import UncertaintyConfig
from perturbfm_core.uncertainty.conformal import Conformal
from perturbfm_core.uncertainty.groups import perturbations
from perturbfm_core.uncertainty.guard import CalibrationGuard
from perturbfm_core.uncertainty.quantiles import n_units
from perturbfm_core.uncertainty.scaling import Scaling
from perturbfm_core.uncertainty.weighted import WeightedConformal

_NO_CLAIM = "none in finite samples; approaches the level as units grow"
_FOLDS_CLAIM = (
    "none for intervals centred on the final model; CV+ on the same folds would guarantee 1 - 2 (1 - level)"
)


@dataclass(frozen=True, eq=False)
class Calibrator:
    """A fitted calibrator.

    Attributes
    ----------
    config
        The configuration that it was fitted with.
    scaling, conformal
        The fitted steps, None for those that are switched off.
    info
        Their description for ``calibration.json``.
    """

    config: UncertaintyConfig
    scaling: Scaling | None = None
    conformal: Conformal | WeightedConformal | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        config: UncertaintyConfig,
        residuals: OutOfFold,
        guard: CalibrationGuard,
        gene_scale: FloatArray,
        *,
        for_scaling: OutOfFold | None = None,
        variance_reads_them: bool = False,
    ) -> Calibrator:
        """Fit on residuals of conditions that their predictor did not see.

        Parameters
        ----------
        config
            The entry's configuration.
        residuals
            Residuals for the conformal quantiles.
        guard
            Refuses test rows and rows that the predictor was fitted on.
        gene_scale
            float [G], size of each gene's train deltas in log1p units (`perturbfm_core.data.gene_bins`); it
            bins the genes.
        for_scaling
            Residuals on which scaling is fitted; default `residuals`.
        variance_reads_them
            Whether the variance of `residuals` was fitted on the same conditions.

        Raises
        ------
        SplitError
            If the guard refuses.
        ModelError
            If there is nothing to calibrate on.
        """
        guard.check(residuals)
        if not len(residuals):
            msg = "there are no residuals to calibrate on; freeze the split with calibration rows or inner folds"
            raise ModelError(msg)
        if for_scaling is not None:
            guard.check(for_scaling)
        gene_bin = gene_bins(gene_scale, config.gene_bins)
        fitted = perturbations(guard.fitted)
        scaling = None
        apart = for_scaling is not None and for_scaling is not residuals
        if config.scale is not None:
            source = residuals if for_scaling is None else for_scaling
            scaling = Scaling.fit(source, gene_bin, config.scale, fitted)
            residuals = scaling.apply_to_residuals(residuals)
        conformal: Conformal | WeightedConformal | None = None
        method = config.conformal.method
        if method != "none":
            kind = WeightedConformal if method == "weighted" else Conformal
            levels = np.asarray(config.levels, dtype=np.float64)
            conformal = kind.fit(residuals, config.conformal, levels, gene_bin, fitted)
        n = n_units(residuals.units)
        scaled_on_them = scaling is not None and not apart
        info = {
            "method": method,
            "residuals": residuals.source,
            "unit": residuals.unit,
            "n_units": n,
            "n_conditions": residuals.conditions.index.nunique(),
            "scaling": None
            if scaling is None
            else {"residuals": "inner folds" if apart else "the same", **scaling.describe()},
            "guarantee": _guarantee(config, residuals, n, scaled_on_them, variance_reads_them),
            **({"variance_fitted_on": "the same conditions"} if variance_reads_them else {}),
            **({} if conformal is None else conformal.describe()),
        }
        return cls(config, scaling, conformal, info)

    @classmethod
    def without(cls, config: UncertaintyConfig, reason: str) -> Calibrator:
        """Return a calibrator that changes nothing and records the reason."""
        return cls(config, info={"method": "none", "reason": reason, "guarantee": "none"})

    def apply(self, prediction: Prediction, conditions: pd.DataFrame) -> Prediction:
        """Return the prediction of `conditions` [C] with scaled variance and intervals."""
        if self.scaling is not None:
            prediction = self.scaling.apply(prediction, conditions)
        if self.conformal is not None:
            prediction = self.conformal.apply(prediction, conditions)
        return prediction


def _guarantee(
    config: UncertaintyConfig, residuals: OutOfFold, n: int, scaled_on_them: bool, variance_reads_them: bool
) -> dict[str, str] | str:
    """Return the guarantee that the intervals have, by level where it differs.

    Parameters
    ----------
    config, residuals
        Configuration, and residuals behind the quantiles.
    n
        Number of their units.
    scaled_on_them, variance_reads_them
        Whether scaling, or the variance itself, was fitted on the same residuals.
    """
    method = config.conformal.method
    if method == "none":
        return "none"
    if method == "weighted":
        return "none: the weights are estimated"
    if method != "hierarchical":
        return _NO_CLAIM
    if residuals.source != "calibration_fold":
        return _FOLDS_CLAIM
    if scaled_on_them or variance_reads_them:
        what = "the variance" if variance_reads_them else "scaling"
        return f"none: {what} was fitted on the same residuals"
    return {
        f"{level:g}": f"at least {level:g} for a random gene of a new {residuals.unit}"
        if level * (n + 1) <= n + 1e-9
        else f"none: {n} units cannot reach {level:g}, {int(np.ceil(level / (1 - level) - 1e-9))} would"
        for level in config.levels
    }


def save_calibrator(calibrator: Calibrator, folder: Path) -> None:
    """Write ``calibrator.safetensors`` and ``calibrator.json`` into a folder."""
    steps = (calibrator.scaling, calibrator.conformal)
    arrays: dict[str, Any] = {}
    for step in steps:
        if step is not None:
            arrays |= {key: np.ascontiguousarray(value) for key, value in step.arrays().items()}
    save_file(arrays, folder / schema.CALIBRATOR_FILE)
    (folder / schema.CALIBRATOR_FILE).chmod(0o644)
    write_json(
        folder / schema.CALIBRATOR_META_FILE,
        {
            "schema_version": schema.MODEL_SCHEMA_VERSION,
            "config": calibrator.config.model_dump(mode="json"),
            "scaling": None if calibrator.scaling is None else calibrator.scaling.meta(),
            "conformal": None if calibrator.conformal is None else calibrator.conformal.meta(),
            "info": calibrator.info,
        },
    )


def load_calibrator(folder: Path) -> Calibrator:
    """Read a calibrator from its folder.

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    """
    meta = read_json(folder / schema.CALIBRATOR_META_FILE, ModelError)
    try:
        config = parse(UncertaintyConfig, meta["config"], f"{folder / schema.CALIBRATOR_META_FILE}")
        arrays = load_file(folder / schema.CALIBRATOR_FILE)
        scaling = None if meta["scaling"] is None else Scaling.restore(arrays, meta["scaling"])
        kind = WeightedConformal if config.conformal.method == "weighted" else Conformal
        conformal = None if meta["conformal"] is None else kind.restore(arrays, meta["conformal"])
        return Calibrator(config, scaling, conformal, meta["info"])
    except (OSError, SafetensorError) as error:
        msg = f"{folder / schema.CALIBRATOR_FILE} is missing or damaged ({error}); train again"
        raise ModelError(msg) from error
    except (KeyError, TypeError) as error:
        msg = f"{folder} does not hold a whole calibrator ({error} not found); train again"
        raise ModelError(msg) from error


def calibration_of(folder: Path) -> dict[str, Any]:
    """Return the description of the calibrator in a folder; method ``none`` if there is no calibrator."""
    meta = folder / schema.CALIBRATOR_META_FILE
    if not meta.is_file():
        return {
            "method": "none",
            "reason": "the prediction came without a calibrator",
            "guarantee": "unknown",
        }
    info: dict[str, Any] = read_json(meta)["info"]
    return info
