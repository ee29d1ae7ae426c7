"""Scaled additive baseline plus kernel ridge regression of the interactions in combinations."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from perturbfm_core.config import Frozen
from perturbfm_core.models.base import MODELS, Requires
from perturbfm_core.models.baselines.effects import is_single, n_parts
from perturbfm_core.models.baselines.kernels import (
    KernelSystem,
    SingleScores,
    inducing,
    median_distance,
    principal_axes,
    rbf,
)
from perturbfm_core.models.baselines.scaled_additive import Per, ScaledSums
from perturbfm_core.models.baselines.tuned import Solution, TunedBaseline
from perturbfm_core.models.search import Choice, FloatRange, IntRange, SearchSpace
from perturbfm_core.schema import BoolArray, FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("combo_kernel_ridge")
class ComboKernelRidge(TunedBaseline):
    """Predicts the scaled sum of single effects plus the interaction of similar train combinations.

    Combinations are compared by the sum of their single effects on the principal axes of train singles; the
    target is the residual to the scaled sum. Singles have no interaction. Of more than 1,500 train combinations, as many
    stand for all (see `perturbfm_core.models.nystrom`).
    """

    requires = Requires(combos=True)
    search_space: ClassVar[SearchSpace] = {
        "alphas": FloatRange(1e-2, 1e2, listed=True),
        "components": IntRange(5, 200, log=True),
        "per": Choice(("data", "parts")),
    }

    class Params(Frozen):
        """Parameters of `ComboKernelRidge`; the penalty is chosen among `alphas` by the inner folds.

        Attributes
        ----------
        alphas
            Ridge penalties to choose from, by the error on the inner folds.
        components
            Principal components of the single effects that the kernel compares.
        per
            What has a scale of the sum of singles of its own: the whole data set (``data``), or each number of parts.
        """

        alphas: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.3, 1.0, 3.0, 10.0), min_length=1)
        components: int = Field(default=100, ge=1)
        per: Per = "data"

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._sums = ScaledSums(self.params.per)
        self._scores = SingleScores()
        self._train: FloatArray = np.zeros((0, 0))
        self._width = 1.0

    def _prepare(self, view: TrainView, seed: int) -> KernelSystem:
        self._sums.fit(view.conditions, view.delta)
        axes = principal_axes(view.delta[is_single(view.conditions)], self.params.components, self.scale)
        self._scores.fit(view, axes)
        combo = n_parts(view.conditions) > 1
        combos = view.conditions[combo]
        sums = self._scores.sums(combos)
        self._width = median_distance(sums, self.scale)
        self.training["scale"] = self._sums.scale
        rows = inducing(self.scale, len(combos))
        self._train = sums if rows is None else sums[rows]
        K, residual = rbf(sums, self._train, self._width), view.delta[combo] - self._sums.predict(combos)
        return KernelSystem(K, residual, rows, None if rows is None else np.ones(len(combos)))

    def _solve(self, prepared: KernelSystem, value: float) -> Solution:
        return {"coef": prepared.solve(value) if len(prepared.K) else prepared.Y}

    def _describe(self, query: Query) -> tuple[FloatArray, BoolArray, FloatArray]:
        combo = np.asarray(n_parts(query.conditions) > 1, dtype=np.bool_)
        K = rbf(self._scores.sums(query.conditions[combo]), self._train, self._width)
        return self._sums.predict(query.conditions), combo, K

    def _apply(self, described: tuple[FloatArray, BoolArray, FloatArray], solution: Solution) -> FloatArray:
        added, combo, K = described
        out = added.copy()
        out[combo] += (K @ solution["coef"]).astype(np.float32)
        return out

    def _state_arrays(self) -> dict[str, FloatArray]:
        own = super()._state_arrays()
        return {"train": self._train, **own, **self._sums.arrays(), **self._scores.arrays()}

    def _state_meta(self) -> dict[str, Any]:
        return {"width": self._width, **self._sums.meta(), **self._scores.meta()}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._train, self._width = arrays["train"], float(meta["width"])
        self._sums.restore(arrays, meta)
        self._scores.restore(arrays, meta)
