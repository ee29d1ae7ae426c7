"""Scoring: truth and prediction aligned once, metrics and panels by registry, ceilings and floors."""

from perturbfm_core.evaluation import panels as _register_panels  # noqa: F401
from perturbfm_core.evaluation.panel import PANELS

__all__ = ["PANELS"]
