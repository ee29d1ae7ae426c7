"""Ridge regression from control expression and perturbation features to the delta."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pydantic import Field
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from perturbfm_core import schema
from perturbfm_core.config import Frozen
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.effects import components
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("ridge")
class RidgeRegression(Baseline):
    """Predicts the delta linearly from which genes are perturbed (scaled by dose) and PCs of the controls."""

    name = "ridge"

    class Params(Frozen):
        """Parameters of `RidgeRegression`; the penalty is chosen among `alphas` by the inner folds."""

        alphas: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
        control_components: int = Field(default=10, ge=0)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._names: list[str] = []
        self._top_dose = 1.0
        self._alpha: float | None = None
        self._pca_mean: FloatArray = np.zeros(0)
        self._pca_axes: FloatArray = np.zeros((0, 0))
        self._coef: FloatArray = np.zeros((0, 0))
        self._intercept: FloatArray = np.zeros(0)

    def fit(self, view: TrainView, seed: int) -> None:
        """Fit on a train view, choosing the penalty anew."""
        self._alpha = None
        super().fit(view, seed)

    def _fit(self, view: TrainView, seed: int) -> None:
        if self._alpha is None:
            self._alpha = self._choose(view, seed)
            self.training["alpha"] = self._alpha
        self._fit_features(view, seed)
        model = Ridge(alpha=self._alpha).fit(self._features(view.query()), view.delta.astype(np.float64))
        self._coef = np.atleast_2d(model.coef_).T
        self._intercept = np.atleast_1d(model.intercept_)

    def _choose(self, view: TrainView, seed: int) -> float:
        alphas = list(self.params.alphas)
        if len(alphas) == 1 or not view.inner:
            return float(alphas[len(alphas) // 2])
        errors = np.zeros(len(alphas))
        for fit, held in view.inner:
            part, rest = view.subset(held), view.subset(fit)
            for i, alpha in enumerate(alphas):
                other = type(self)(self.params)
                other.genes, other._alpha = self.genes, alpha
                other._fit(rest, seed)
                errors[i] += float(np.square(part.delta - other._mean(part.query())).sum())
        return float(alphas[int(np.argmin(errors))])

    def _fit_variance(self, view: TrainView, seed: int) -> None:
        fixed = self.params
        # The penalty chosen once serves every inner fold, as it serves the final fit.
        self.params = fixed.model_copy(update={"alphas": (self._alpha,)})
        super()._fit_variance(view, seed)
        self.params = fixed

    def _fit_features(self, view: TrainView, seed: int) -> None:
        parts, _ = components(view.conditions)
        labels = _labels(parts)
        self._names = sorted(set(labels))
        self._top_dose = max([_dose(d) for d in parts[schema.DOSES]] + [1e-12])
        self._pca_mean, self._pca_axes = np.zeros(0), np.zeros((0, 0))
        if view.control is not None and self.params.control_components:
            X = np.unique(view.control.astype(np.float64), axis=0)
            k = min(self.params.control_components, len(X) - 1)
            if k > 0:
                pca = PCA(n_components=k, svd_solver="full", random_state=seed).fit(X)
                # One scale for all components: whitening would blow up those that hold sampling noise.
                scale = np.sqrt(max(float(pca.explained_variance_[0]), 1e-12))
                self._pca_mean, self._pca_axes = pca.mean_, pca.components_ / scale

    def _features(self, query: Query) -> FloatArray:
        parts, owner = components(query.conditions)
        known = {name: i for i, name in enumerate(self._names)}
        multi_hot = np.zeros((len(query), len(self._names)))
        for label, dose, row in zip(_labels(parts), parts[schema.DOSES], owner, strict=True):
            if label in known:
                multi_hot[row, known[label]] += _dose(dose) / self._top_dose
        if self._pca_axes.size and query.control is not None:
            scores = (query.control - self._pca_mean) @ self._pca_axes.T
            return np.concatenate([multi_hot, scores], axis=1)
        return multi_hot

    def _mean(self, query: Query) -> FloatArray:
        out: FloatArray = self._features(query) @ self._coef + self._intercept
        return out

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {
            "coef": self._coef,
            "intercept": self._intercept,
            "pca_mean": self._pca_mean,
            "pca_axes": self._pca_axes,
        }

    def _state_meta(self) -> dict[str, Any]:
        return {"names": self._names, "alpha": self._alpha, "top_dose": self._top_dose}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._coef, self._intercept = arrays["coef"], arrays["intercept"]
        self._pca_mean, self._pca_axes = arrays["pca_mean"], arrays["pca_axes"]
        self._names, self._alpha, self._top_dose = meta["names"], meta["alpha"], meta["top_dose"]


def _labels(parts: Any) -> list[str]:
    """Return the feature of each part: gene and modality, since on and off are different interventions."""
    return [f"{g}|{m}" for g, m in zip(parts[schema.PERT_ID], parts[schema.MODALITY], strict=True)]


def _dose(text: str) -> float:
    """Return log(1 + dose) of the number that a dose begins with, 1 without one."""
    found = re.match(r"\s*([0-9.]+(?:[eE][-+]?\d+)?)", str(text))
    return float(np.log1p(float(found.group(1)))) if found else 1.0
