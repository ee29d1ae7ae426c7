"""Kernel ridge regression from gene embeddings to the delta."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.embedding import EmbeddingBaseline
from perturbfm_core.models.baselines.kernels import KernelSystem, inducing, median_distance, rbf
from perturbfm_core.models.baselines.tuned import Solution
from perturbfm_core.models.search import FloatRange, SearchSpace
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import TrainView


@MODELS.register("kernel_ridge")
class KernelRidgeRegression(EmbeddingBaseline):
    """Predicts the group's mean plus a kernel-weighted sum over conditions with similar gene embeddings.

    The kernel is exp(-d^2 / median of the non-zero d^2 in train) within a modality, zero between modalities. Of more
    than 1,500 train conditions, as many stand for all (see `perturbfm_core.models.nystrom`).
    """

    search_space: ClassVar[SearchSpace] = {
        **EmbeddingBaseline.search_space,
        "alphas": FloatRange(1e-2, 1e2, listed=True),
    }

    class Params(EmbeddingBaseline.Params):
        """Parameters of `KernelRidgeRegression`; the penalty is chosen among `alphas` by the inner folds.

        Attributes
        ----------
        alphas
            Ridge penalties to choose from, by the error on the inner folds.
        """

        alphas: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.3, 1.0, 3.0, 10.0), min_length=1)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._train: FloatArray = np.zeros((0, 0))
        self._code: IntArray = np.zeros(0, dtype=np.int64)
        self._width = 1.0

    def _prepare(self, view: TrainView, seed: int) -> KernelSystem:
        X, code, residual = self._embed(view)
        self._width = median_distance(X, self.scale)
        rows = inducing(self.scale, len(view))
        self._train, self._code = (X, code) if rows is None else (X[rows], code[rows])
        K = self._design(view.conditions, X, code)
        own = None if rows is None else (code >= 0).astype(np.float64)
        return KernelSystem(K, residual, rows, own)

    def _solve(self, prepared: KernelSystem, value: float) -> Solution:
        return {"coef": prepared.solve(value)}

    def _design(self, conditions: pd.DataFrame, X: FloatArray, code: IntArray) -> FloatArray:
        same_modality = (code[:, None] == self._code) & (self._code >= 0)
        return np.asarray(rbf(X, self._train, self._width) * same_modality)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {"train": self._train, **super()._state_arrays()}

    def _state_meta(self) -> dict[str, Any]:
        return {"width": self._width, "code": self._code.tolist(), **super()._state_meta()}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._train = arrays["train"]
        self._code = np.asarray(meta["code"], dtype=np.int64)
        self._width = float(meta["width"])
