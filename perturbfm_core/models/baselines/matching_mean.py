"""Matching mean of Systema (Vinas Torne et al. 2025, Nature Biotechnology)."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.effects import (
    CONTEXT_LEVELS,
    EffectTable,
    components,
    is_single,
    n_parts,
    sum_parts,
)
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("matching_mean")
class MatchingMean(Baseline):
    """Predicts the mean, not the sum, of the train deltas of a combination's singles.

    A part that train does not have as a single counts as the mean over all perturbed train cells. With one
    context this is Systema's definition, expressed in deltas. Where it is silent, with several contexts, modalities,
    doses or covariates, a part is first looked up with those of the condition itself.
    """

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._singles = EffectTable(CONTEXT_LEVELS)
        self._all_cells: FloatArray = np.zeros(0, dtype=np.float32)

    def _fit(self, view: TrainView, seed: int) -> None:
        cells = view.n_cells.astype(np.float64)
        single = is_single(view.conditions)
        self._singles.fit(view.conditions[single], view.delta[single], cells[single])
        self._all_cells = np.average(view.delta, axis=0, weights=cells).astype(np.float32)

    def _mean(self, query: Query) -> FloatArray:
        parts, owner = components(query.conditions)
        effects, found = self._singles.look_up(parts)
        effects[~found] = self._all_cells
        out = sum_parts(effects, owner, len(query)) / n_parts(query.conditions)[:, None]
        return out.astype(np.float32)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {"all_cells": self._all_cells, **self._singles.arrays("singles")}

    def _state_meta(self) -> dict[str, Any]:
        return self._singles.meta("singles")

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._all_cells = arrays["all_cells"]
        self._singles.restore("singles", arrays, meta)
