"""Ridge regression from gene embeddings to the delta, as in GenePert (embeddings of gene descriptions)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.embedding import Centers, EmbeddingBaseline
from perturbfm_core.models.baselines.tuned import Solution
from perturbfm_core.models.search import FloatRange, SearchSpace
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import TrainView

if TYPE_CHECKING:
    import pandas as pd


@MODELS.register("gene_embedding_ridge")
class GeneEmbeddingRidge(EmbeddingBaseline):
    """Predicts the group's mean plus a linear function of the summed embeddings of the perturbed genes.

    Features are centred in the same groups as deltas, so that each group has an intercept that is not
    penalised; each modality has its own coefficients.
    """

    search_space: ClassVar[SearchSpace] = {
        **EmbeddingBaseline.search_space,
        "alphas": FloatRange(1e-1, 1e5, listed=True),
    }

    class Params(EmbeddingBaseline.Params):
        """Parameters of `GeneEmbeddingRidge`; the penalty is chosen among `alphas` by the inner folds.

        Attributes
        ----------
        alphas
            Ridge penalties to choose from, by the error on the inner folds.
        """

        alphas: tuple[Annotated[float, Field(ge=0)], ...] = Field(
            default=(1.0, 10.0, 100.0, 1000.0), min_length=1
        )

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._feature_centers = Centers(self.params.center)

    def _prepare(self, view: TrainView, seed: int) -> tuple[FloatArray, FloatArray]:
        X, code, residual = self._embed(view)
        self._feature_centers.fit(view.conditions, self._blocks(X, code))
        return self._design(view.conditions, X, code), residual.astype(np.float64)

    def _solve(self, prepared: tuple[FloatArray, FloatArray], value: float) -> Solution:
        from sklearn.linear_model import Ridge

        model = Ridge(alpha=value, fit_intercept=False).fit(*prepared)
        return {"coef": np.atleast_2d(model.coef_).T.astype(np.float32)}

    def _blocks(self, X: FloatArray, code: IntArray) -> FloatArray:
        """Return [C, M F]: the features in the block of their modality, zero in the others."""
        own = code[:, None] == np.arange(len(self._modalities))
        return np.asarray((own[:, :, None] * X[:, None, :]).reshape(len(X), -1))

    def _design(self, conditions: pd.DataFrame, X: FloatArray, code: IntArray) -> FloatArray:
        centered = self._blocks(X, code) - self._feature_centers.of(conditions)
        return np.where(code[:, None] >= 0, centered, 0.0)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {**super()._state_arrays(), **self._feature_centers.arrays("features")}

    def _state_meta(self) -> dict[str, Any]:
        return {**super()._state_meta(), **self._feature_centers.meta("features")}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._feature_centers.restore("features", arrays, meta)
