"""Models: one contract, a registry, the baselines, PerturbFM. Importing this package does not import torch."""

from perturbfm_core.models import baselines as _register_baselines  # noqa: F401
from perturbfm_core.models import ensemble as _register_ensemble  # noqa: F401
from perturbfm_core.models import perturbfm as _register_perturbfm  # noqa: F401
from perturbfm_core.models.base import (
    MODELS,
    Model,
    Requires,
    applicable,
    load_model,
    new_model,
    save_model,
)

__all__ = ["MODELS", "Model", "Requires", "applicable", "load_model", "new_model", "save_model"]
