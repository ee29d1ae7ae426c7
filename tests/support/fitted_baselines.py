"""Baselines fitted on a train view."""

from __future__ import annotations

from typing import Any

from perturbfm_core.models.base import Model, new_model
from perturbfm_core.splits.view import TrainView


def fitted(name: str, view: TrainView, **params: Any) -> Model:
    """Return a fitted model."""
    model = new_model(name, params)
    model.fit(view, 0)
    return model
