"""What all baselines share: a mean from train conditions, a variance from out-of-fold residuals."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from perturbfm_core.data.prediction import Prediction
from perturbfm_core.models.base import Model
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView

_SHRINK_CONDITIONS = 5.0
_VAR_FLOOR = 1e-6


class Baseline(Model):
    """A model of the mean whose variance is, per gene, that of its errors on held-out train conditions."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._var: FloatArray = np.zeros(0, dtype=np.float32)

    @abstractmethod
    def _mean(self, query: Query) -> FloatArray:
        """Return float [C, G], the predicted delta."""

    def _fit_variance(self, view: TrainView, seed: int) -> None:
        residuals = []
        for fit, held in view.inner:
            other = type(self)(self.params)
            other.genes = self.genes
            other.knowledge = self.knowledge
            other._fit(view.subset(fit), seed)
            part = view.subset(held)
            residuals.append(np.asarray(part.delta - other._mean(part.query()), dtype=np.float64))
        source = "out_of_fold"
        if not residuals:
            # One unit only: nothing can be held out, so the errors are those of the fit itself.
            residuals = [np.asarray(view.delta - self._mean(view.query()), dtype=np.float64)]
            source = "in_sample"
        stacked = np.concatenate(residuals)
        per_gene = np.mean(stacked**2, axis=0)
        n = len(stacked)
        shrunk = (n * per_gene + _SHRINK_CONDITIONS * per_gene.mean()) / (n + _SHRINK_CONDITIONS)
        self._var = np.maximum(shrunk, _VAR_FLOOR).astype(np.float32)
        self.training["variance"] = {"source": source, "conditions": n, "inner_folds": len(view.inner)}

    def _predict(self, query: Query) -> Prediction:
        mean = np.asarray(self._mean(query), dtype=np.float32)
        return Prediction(mean=mean, var=np.broadcast_to(self._var, mean.shape).copy())

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays, the per-gene variance among them."""
        return {"var": self._var, **self._state_arrays()}

    def meta(self) -> dict[str, Any]:
        """Return the fitted names."""
        return self._state_meta()

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Take back arrays and names."""
        self._var = arrays["var"]
        self._restore({k: v for k, v in arrays.items() if k != "var"}, meta)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {}

    def _state_meta(self) -> dict[str, Any]:
        return {}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Take back what the two state methods returned."""
