"""Latent-shift baseline: a mean shift per perturbation in latent space, as in scGen and CPA, here by PCA."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from perturbfm_core.config import Frozen
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.effects import PERTURBATION_LEVELS, AdditiveEffects, EffectTable
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.models.search import IntRange, SearchSpace
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("latent_shift")
class LatentShift(Baseline):
    """Predicts the mean shift of a perturbation in PCA space, decoded; combinations add their shifts."""

    search_space: ClassVar[SearchSpace] = {"components": IntRange(1, 100, log=True)}

    class Params(Frozen):
        """Parameters of `LatentShift`: the number of principal components.

        Attributes
        ----------
        components
            Principal components of expression in which effects are added.
        """

        components: int = Field(default=30, ge=1)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._axes: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._seen = EffectTable(PERTURBATION_LEVELS)
        self._sums = AdditiveEffects()

    def _fit(self, view: TrainView, seed: int) -> None:
        delta = view.delta.astype(np.float64)
        states = delta if view.control is None else np.concatenate([view.control, view.control + delta])
        k = min(self.params.components, *states.shape)
        self._axes = principal_components(states, k).varying().astype(np.float32)
        shift = (delta @ self._axes.T).astype(np.float32)
        self._seen.fit(view.conditions, shift)
        self._sums.fit(view.conditions, shift)

    def _mean(self, query: Query) -> FloatArray:
        shift, found = self._seen.look_up(query.conditions)
        if not found.all():
            shift[~found] = self._sums.predict(query.conditions[~found])
        out: FloatArray = shift @ self._axes
        return out

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {"axes": self._axes, **self._seen.arrays("seen"), **self._sums.arrays()}

    def _state_meta(self) -> dict[str, Any]:
        return {**self._seen.meta("seen"), **self._sums.meta()}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._axes = arrays["axes"]
        self._seen.restore("seen", arrays, meta)
        self._sums.restore(arrays, meta)
