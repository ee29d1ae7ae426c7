"""K-nearest-neighbour regression on gene embeddings."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pydantic import Field, PositiveInt

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.embedding import EmbeddingBaseline
from perturbfm_core.models.baselines.kernels import squared_distances
from perturbfm_core.models.baselines.tuned import Solution
from perturbfm_core.models.search import IntRange, SearchSpace
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import TrainView

_TIE = 1e-9


@MODELS.register("knn")
class NearestNeighbours(EmbeddingBaseline):
    """Predicts the group's mean plus the mean deviation of the k train conditions nearest in gene embedding.

    Neighbours are of the same modality. All conditions as near as the k-th are included, so that ties do not
    depend on the order of conditions.
    """

    tuned = "neighbours"
    chosen = "neighbours"
    search_space: ClassVar[SearchSpace] = {
        **EmbeddingBaseline.search_space,
        "neighbours": IntRange(1, 100, log=True, listed=True),
    }

    class Params(EmbeddingBaseline.Params):
        """Parameters of `NearestNeighbours`; k is chosen among `neighbours` by the inner folds.

        Attributes
        ----------
        neighbours
            Numbers of nearest train conditions to choose from, by the error on the inner folds.
        """

        neighbours: tuple[PositiveInt, ...] = Field(default=(1, 3, 5, 10, 20, 50, 100), min_length=1)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._train: FloatArray = np.zeros((0, 0))
        self._code: IntArray = np.zeros(0, dtype=np.int64)
        self._deviations: FloatArray = np.zeros((0, 0), dtype=np.float32)

    def _prepare(self, view: TrainView, seed: int) -> None:
        self._train, self._code, self._deviations = self._embed(view)

    def _solve(self, prepared: None, value: int) -> Solution:
        return {"k": np.asarray([value], dtype=np.int64)}

    def _design(self, conditions: pd.DataFrame, X: FloatArray, code: IntArray) -> FloatArray:
        """Return [C, n], squared distances, infinite to train conditions of another modality."""
        same_modality = (code[:, None] == self._code) & (self._code >= 0)
        return np.where(same_modality, squared_distances(X, self._train), np.inf)

    def _apply(self, described: tuple[FloatArray, FloatArray], solution: Solution) -> FloatArray:
        center, d2 = described
        last = min(int(solution["k"][0]), d2.shape[1]) - 1
        kth = np.partition(d2, last, axis=1)[:, last : last + 1]
        # The slack treats distances as equal that differ by rounding only.
        slack = _TIE * float(np.square(self._train).sum(axis=1).max())
        near = np.isfinite(d2) & (d2 <= kth + slack)
        weights = near / np.maximum(near.sum(axis=1, keepdims=True), 1)
        if self.scale.approximates(len(self._train)):
            return np.asarray(center + sp.csr_array(weights.astype(np.float32)) @ self._deviations)
        return np.asarray(center + weights @ self._deviations, dtype=np.float32)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {
            "train": self._train,
            "deviations": self._deviations,
            **super()._state_arrays(),
        }

    def _state_meta(self) -> dict[str, Any]:
        return {"code": self._code.tolist(), **super()._state_meta()}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._train, self._deviations = arrays["train"], arrays["deviations"]
        self._code = np.asarray(meta["code"], dtype=np.int64)
