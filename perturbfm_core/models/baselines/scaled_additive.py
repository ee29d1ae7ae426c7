"""Additive baseline with a fitted scale, since joint effects tend to be smaller than the sum of singles."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from perturbfm_core.config import Frozen
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.effects import AdditiveEffects, n_parts
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView

Per = Literal["data", "parts"]


class ScaledSums:
    """Sums of single effects times a scale that is fitted by least squares on train combinations.

    Only combinations whose parts are all measured as singles are used. Singles are neither scaled nor used
    for the fit, since a single's own delta is its feature. Without combinations the scale is 1.

    Parameters
    ----------
    per
        One scale for all combinations (``data``), or one for each number of parts (``parts``); a number of
        parts that train lacks takes the common scale.
    """

    def __init__(self, per: Per) -> None:
        self.per = per
        self.sums = AdditiveEffects()
        self.scales: dict[int, float] = {}
        self.scale = 1.0

    def fit(self, conditions: pd.DataFrame, delta: FloatArray) -> ScaledSums:
        """Learn the single effects and the scale from train conditions."""
        self.sums.fit(conditions, delta)
        size = n_parts(conditions)
        use = (size > 1) & self.sums.measured(conditions)
        added = self.sums.predict(conditions[use]).astype(np.float64)
        # Least squares without intercept: scale = <sum, delta> / <sum, sum>, from two numbers per
        # combination.
        cross = np.einsum("cg,cg->c", added, delta[use].astype(np.float64))
        square = np.einsum("cg,cg->c", added, added)
        self.scale = _ratio(cross, square)
        wanted = sorted({int(n) for n in size[use]}) if self.per == "parts" else []
        self.scales = {n: _ratio(cross[size[use] == n], square[size[use] == n]) for n in wanted}
        return self

    def predict(self, conditions: pd.DataFrame) -> FloatArray:
        """Return float32 [C, G], the scaled sums."""
        factor = [1.0 if n == 1 else self.scales.get(int(n), self.scale) for n in n_parts(conditions)]
        out: FloatArray = self.sums.predict(conditions) * np.asarray(factor, dtype=np.float32)[:, None]
        return out

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays."""
        return self.sums.arrays()

    def meta(self) -> dict[str, Any]:
        """Return the fitted names and scales."""
        return {
            "scale": self.scale,
            "scales": {str(n): s for n, s in self.scales.items()},
            **self.sums.meta(),
        }

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned."""
        self.scale = float(meta["scale"])
        self.scales = {int(n): float(s) for n, s in meta["scales"].items()}
        self.sums.restore(arrays, meta)


def _ratio(cross: FloatArray, square: FloatArray) -> float:
    total = float(square.sum())
    return float(cross.sum()) / total if total > 0 else 1.0


@MODELS.register("scaled_additive")
class ScaledAdditive(Baseline):
    """Predicts the sum of the train deltas of a combination's singles times one fitted scale."""

    class Params(Frozen):
        """Parameters of `ScaledAdditive`: one scale for the data set, or one per number of parts.

        Attributes
        ----------
        per
            What has a scale of its own: the whole data set (``data``), or each number of parts.
        """

        per: Per = "data"

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._sums = ScaledSums(self.params.per)

    def _fit(self, view: TrainView, seed: int) -> None:
        self._sums.fit(view.conditions, view.delta)
        self.training["scale"] = self._sums.scale

    def _mean(self, query: Query) -> FloatArray:
        return self._sums.predict(query.conditions)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return self._sums.arrays()

    def _state_meta(self) -> dict[str, Any]:
        return self._sums.meta()

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._sums.restore(arrays, meta)
