"""Ridge regression from control expression and perturbation features to the delta."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.config import Frozen
from perturbfm_core.errors import ModelError
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.dose_response import DoseResponse, labels_of
from perturbfm_core.models.baselines.effects import components, distinct_rows
from perturbfm_core.models.baselines.sparse_ridge import Columns, Outcomes, fit_ridge
from perturbfm_core.models.baselines.tuned import Solution, TunedBaseline
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.models.search import FloatRange, IntRange, SearchSpace
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("ridge")
class RidgeRegression(TunedBaseline):
    """Predicts the delta linearly from perturbed genes (scaled by dose) and components of the controls."""

    search_space: ClassVar[SearchSpace] = {
        "alphas": FloatRange(1e-2, 1e4, listed=True),
        "control_components": IntRange(0, 50),
    }

    class Params(Frozen):
        """Parameters of `RidgeRegression`; the penalty is chosen among `alphas` by the inner folds.

        Attributes
        ----------
        alphas
            Ridge penalties to choose from, by the error on the inner folds.
        control_components
            Principal components of the matched controls among the inputs, 0 for none.
        """

        alphas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
            default=(0.1, 1.0, 10.0, 100.0), min_length=1
        )
        control_components: int = Field(default=10, ge=0)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._names: list[str] = []
        self._response = DoseResponse()
        self._pca_mean: FloatArray = np.zeros(0)
        self._pca_axes: FloatArray = np.zeros((0, 0))

    def _prepare(self, view: TrainView, seed: int) -> tuple[Columns, Outcomes]:
        self._fit_features(view)
        return self._features(view.query()), self._outcomes(view)

    def _outcomes(self, view: TrainView) -> Outcomes:
        """Return what is regressed: the deltas."""
        return view

    def _delta(self, values: FloatArray, query: Query) -> FloatArray:
        """Return float [C, G], the deltas that regressed values [C, G] of the conditions of a query stand for."""
        return values

    def _solve(self, prepared: tuple[Columns, Outcomes], value: float) -> Solution:
        coef, intercept = fit_ridge(*prepared, value)
        return {"coef": coef, "intercept": intercept}

    def _fit_features(self, view: TrainView) -> None:
        parts, _ = components(view.conditions)
        labels = labels_of(parts)
        self._names = sorted(set(labels))
        self._response = DoseResponse.fit(view)
        self._pca_mean, self._pca_axes = np.zeros(0), np.zeros((0, 0))
        if view.control is not None and self.params.control_components:
            X = distinct_rows(view.control)[0].astype(np.float64)
            k = min(self.params.control_components, len(X) - 1, X.shape[1])
            if k > 0:
                found = principal_components(X, k)
                # One scale for all components: whitening would amplify those that are mostly sampling noise.
                scale = np.sqrt(max(float(found.variance[0]), 1e-12))
                self._pca_mean, self._pca_axes = found.mean, found.axes / scale

    def _controls(self, query: Query) -> FloatArray:
        """Return the controls of a query, refused if it has none."""
        if query.control is None:
            msg = f"model '{self.name}' was fitted with controls, and the conditions asked for have none"
            raise ModelError(msg)
        return query.control

    def _features(self, query: Query) -> Columns:
        parts, owner = components(query.conditions)
        known = {name: i for i, name in enumerate(self._names)}
        labels = labels_of(parts)
        column = np.asarray([known.get(label, -1) for label in labels], dtype=np.int64)
        dose = self._response.amounts(parts[schema.DOSES], labels)
        used = column >= 0
        multi_hot = sp.csr_array(
            (dose[used], (owner[used], column[used])), shape=(len(query), len(self._names))
        )
        scores = np.zeros((len(query), 0))
        if self._pca_axes.size:
            profiles, which = distinct_rows(self._controls(query))
            scores = ((profiles - self._pca_mean) @ self._pca_axes.T)[which]
        return Columns(multi_hot, scores)

    def _describe(self, query: Query) -> tuple[Columns, Query]:
        return self._features(query), query

    def _apply(self, described: tuple[Columns, Query], solution: Solution) -> FloatArray:
        columns, query = described
        return self._delta(columns.product(solution["coef"], solution["intercept"]), query)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {"pca_mean": self._pca_mean, "pca_axes": self._pca_axes, **super()._state_arrays()}

    def _state_meta(self) -> dict[str, Any]:
        return {"names": self._names, "response": self._response.meta()}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._pca_mean, self._pca_axes = arrays["pca_mean"], arrays["pca_axes"]
        self._names, self._response = meta["names"], DoseResponse.restored(meta)
