"""Additive baseline: a combination is the sum of its single effects (Ahlmann-Eltze et al. 2025)."""

from __future__ import annotations

from typing import Any

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.effects import AdditiveEffects
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("additive")
class Additive(Baseline):
    """Predicts the sum of the train deltas of a combination's singles, in the same context where seen."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._effects = AdditiveEffects()

    def _fit(self, view: TrainView, seed: int) -> None:
        self._effects.fit(view.conditions, view.delta)

    def _mean(self, query: Query) -> FloatArray:
        return self._effects.predict(query.conditions)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return self._effects.arrays()

    def _state_meta(self) -> dict[str, Any]:
        return self._effects.meta()

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._effects.restore(arrays, meta)
