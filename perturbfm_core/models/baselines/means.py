"""Baselines that predict means of train deltas: zero, global, by perturbation, by context, by cell count."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from perturbfm_core.config import Frozen
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.effects import CONTEXT_LEVELS, PERTURBATION_LEVELS, EffectTable
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("control_only")
class ControlOnly(Baseline):
    """Predicts that nothing changes."""

    def _fit(self, view: TrainView, seed: int) -> None:
        """Learn nothing."""

    def _mean(self, query: Query) -> FloatArray:
        return np.zeros((len(query), len(self.genes)), dtype=np.float32)


@MODELS.register("global_mean")
class GlobalMean(Baseline):
    """Predicts the mean delta of all train conditions, weighted equally or by their numbers of cells."""

    class Params(Frozen):
        """Parameters of `GlobalMean`: the weights of the conditions.

        Attributes
        ----------
        weights
            Whether every train condition counts the same (``conditions``) or by its ``cells``.
        """

        weights: Literal["conditions", "cells"] = "conditions"

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._global: FloatArray = np.zeros(0, dtype=np.float32)

    def _fit(self, view: TrainView, seed: int) -> None:
        w = None if self.params.weights == "conditions" else view.n_cells.astype(np.float64)
        self._global = np.average(view.delta.astype(np.float64), axis=0, weights=w).astype(np.float32)

    def _mean(self, query: Query) -> FloatArray:
        return np.repeat(self._global[None], len(query), axis=0)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {"global": self._global}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._global = arrays["global"]


class _GroupMean(GlobalMean):
    """A look-up of group means, falling back to the mean of all train conditions."""

    levels: tuple[tuple[str, ...], ...]

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._table = EffectTable(self.levels)

    def _fit(self, view: TrainView, seed: int) -> None:
        super()._fit(view, seed)
        self._table.fit(view.conditions, view.delta)

    def _mean(self, query: Query) -> FloatArray:
        effects, found = self._table.look_up(query.conditions)
        effects[~found] = self._global
        return effects

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {**super()._state_arrays(), **self._table.arrays("effects")}

    def _state_meta(self) -> dict[str, Any]:
        return self._table.meta("effects")

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._table.restore("effects", arrays, meta)


@MODELS.register("per_perturbation_mean")
class PerPerturbationMean(_GroupMean):
    """Predicts the mean train delta of a perturbation over contexts; unseen ones get the global mean."""

    levels = PERTURBATION_LEVELS


@MODELS.register("per_perturbation_context_mean")
class PerPerturbationContextMean(_GroupMean):
    """Predicts a perturbation's train delta in the same context, else over contexts, else the global mean."""

    levels = CONTEXT_LEVELS


@MODELS.register("context_general")
class ContextGeneral(Baseline):
    """Predicts the mean train delta of a perturbation over contexts, weighted by numbers of cells.

    Added to the control of the condition's own context, this is the part of the effect that all contexts
    share. A perturbation that train lacks gets the mean over all train cells.
    """

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._table = EffectTable(PERTURBATION_LEVELS)
        self._global: FloatArray = np.zeros(0, dtype=np.float32)

    def _fit(self, view: TrainView, seed: int) -> None:
        cells = view.n_cells.astype(np.float64)
        self._global = np.average(view.delta.astype(np.float64), axis=0, weights=cells).astype(np.float32)
        self._table.fit(view.conditions, view.delta, cells)

    def _mean(self, query: Query) -> FloatArray:
        effects, found = self._table.look_up(query.conditions)
        effects[~found] = self._global
        return effects

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {"global": self._global, **self._table.arrays("effects")}

    def _state_meta(self) -> dict[str, Any]:
        return self._table.meta("effects")

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._global = arrays["global"]
        self._table.restore("effects", arrays, meta)
