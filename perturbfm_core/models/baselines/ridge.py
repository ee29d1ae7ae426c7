"""Ridge regression from control expression and perturbation features to the delta."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from perturbfm_core import schema
from perturbfm_core.config import Frozen
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.effects import components, log_dose
from perturbfm_core.models.baselines.tuned import Solution, TunedBaseline
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
        import numpy as np

        super().__init__(params)
        self._names: list[str] = []
        self._top_dose = 1.0
        self._pca_mean: FloatArray = np.zeros(0)
        self._pca_axes: FloatArray = np.zeros((0, 0))

    def _prepare(self, view: TrainView, seed: int) -> tuple[FloatArray, FloatArray]:
        import numpy as np

        self._fit_features(view, seed)
        return self._features(view.query()), view.delta.astype(np.float64)

    def _solve(self, prepared: tuple[FloatArray, FloatArray], value: float) -> Solution:
        import numpy as np
        from sklearn.linear_model import Ridge

        model = Ridge(alpha=value).fit(*prepared)
        return {"coef": np.atleast_2d(model.coef_).T, "intercept": np.atleast_1d(model.intercept_)}

    def _fit_features(self, view: TrainView, seed: int) -> None:
        import numpy as np
        from sklearn.decomposition import PCA

        parts, _ = components(view.conditions)
        labels = _labels(parts)
        self._names = sorted(set(labels))
        self._top_dose = max([log_dose(d) for d in parts[schema.DOSES]] + [1e-12])
        self._pca_mean, self._pca_axes = np.zeros(0), np.zeros((0, 0))
        if view.control is not None and self.params.control_components:
            X = np.unique(view.control.astype(np.float64), axis=0)
            k = min(self.params.control_components, len(X) - 1)
            if k > 0:
                pca = PCA(n_components=k, svd_solver="full", random_state=seed).fit(X)
                # One scale for all components: whitening would amplify those that are mostly sampling noise.
                scale = np.sqrt(max(float(pca.explained_variance_[0]), 1e-12))
                self._pca_mean, self._pca_axes = pca.mean_, pca.components_ / scale

    def _features(self, query: Query) -> FloatArray:
        import numpy as np

        parts, owner = components(query.conditions)
        known = {name: i for i, name in enumerate(self._names)}
        multi_hot = np.zeros((len(query), len(self._names)))
        for label, dose, row in zip(_labels(parts), parts[schema.DOSES], owner, strict=True):
            if label in known:
                multi_hot[row, known[label]] += log_dose(dose) / self._top_dose
        if self._pca_axes.size and query.control is not None:
            scores = (query.control - self._pca_mean) @ self._pca_axes.T
            return np.concatenate([multi_hot, scores], axis=1)
        return multi_hot

    def _describe(self, query: Query) -> FloatArray:
        return self._features(query)

    def _apply(self, described: FloatArray, solution: Solution) -> FloatArray:
        out: FloatArray = described @ solution["coef"] + solution["intercept"]
        return out

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {"pca_mean": self._pca_mean, "pca_axes": self._pca_axes, **super()._state_arrays()}

    def _state_meta(self) -> dict[str, Any]:
        return {"names": self._names, "top_dose": self._top_dose}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._pca_mean, self._pca_axes = arrays["pca_mean"], arrays["pca_axes"]
        self._names, self._top_dose = meta["names"], meta["top_dose"]


def _labels(parts: Any) -> list[str]:
    """Return the feature of each part, gene and modality, since activation and repression differ."""
    return [f"{g}|{m}" for g, m in zip(parts[schema.PERT_ID], parts[schema.MODALITY], strict=True)]
