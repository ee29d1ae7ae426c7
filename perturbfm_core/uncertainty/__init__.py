"""Uncertainty: variance scaling and conformal intervals, each Prediction -> Prediction."""

from perturbfm_core.uncertainty.calibrator import Calibrator
from perturbfm_core.uncertainty.config import UncertaintyConfig
from perturbfm_core.uncertainty.guard import CalibrationGuard, guard_of

__all__ = ["CalibrationGuard", "Calibrator", "UncertaintyConfig", "guard_of"]
