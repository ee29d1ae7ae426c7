"""Bilinear baseline of Ahlmann-Eltze et al. 2025 (Nature Methods): Y = G W P' plus a mean per gene."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from perturbfm_core.config import Frozen
from perturbfm_core.data.condition import name_of_part
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.effects import components
from perturbfm_core.models.principal_components import principal_components
from perturbfm_core.models.search import FloatRange, IntRange, SearchSpace
from perturbfm_core.schema import PERT_ID, FloatArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("linear")
class Linear(Baseline):
    """Predicts by a bilinear map between principal components of the genes and of the perturbed genes."""

    search_space: ClassVar[SearchSpace] = {
        "components": IntRange(2, 100, log=True),
        "penalty": FloatRange(1e-3, 1e2),
    }

    class Params(Frozen):
        """Parameters of `Linear`: number of principal components, and ridge penalty on both sides.

        Attributes
        ----------
        components
            Principal components of genes and of perturbations.
        penalty
            Ridge penalty on both sides of the linear map.
        """

        components: int = Field(default=10, ge=1)
        penalty: float = Field(default=0.1, gt=0)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._embedding: FloatArray = np.zeros((0, 0))
        self._weights: FloatArray = np.zeros((0, 0))
        self._offset: FloatArray = np.zeros(0)

    def _fit(self, view: TrainView, seed: int) -> None:
        Y = view.delta.astype(np.float64).T
        self._offset = Y.mean(axis=1)
        k = min(self.params.components, *Y.shape)
        self._embedding = principal_components(Y, k).scores(Y)
        G, P = self._embedding, self._perturbed(view.query())
        eye = self.params.penalty * np.eye(k)
        # Y [G, n] - offset = G W P' with G [G, k] and P [n, k]: ridge regression from the left, then from the
        # right.
        left = np.linalg.solve(G.T @ G + eye, G.T @ (Y - self._offset[:, None]))
        self._weights = np.linalg.solve(P.T @ P + eye, (left @ P).T).T
        self.training["perturbed_genes_measured"] = int((np.abs(P).sum(axis=1) > 0).sum())

    def _perturbed(self, query: Query) -> FloatArray:
        """Return [C, K], the sum of the embeddings of the perturbed genes; zero for unmeasured genes."""
        position = {g: i for i, g in enumerate(self.genes)}
        parts, owner = components(query.conditions)
        out = np.zeros((len(query), self._embedding.shape[1]))
        for gene, row in zip(map(name_of_part, parts[PERT_ID]), owner, strict=True):
            if gene in position:
                out[row] += self._embedding[position[gene]]
        return out

    def _mean(self, query: Query) -> FloatArray:
        out: FloatArray = self._perturbed(query) @ self._weights.T @ self._embedding.T + self._offset
        return out

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {"embedding": self._embedding, "weights": self._weights, "offset": self._offset}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._embedding, self._weights, self._offset = (
            arrays["embedding"],
            arrays["weights"],
            arrays["offset"],
        )
