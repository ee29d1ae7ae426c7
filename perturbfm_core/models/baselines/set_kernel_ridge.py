"""Kernel ridge regression between sets of perturbed genes, described by their single effects."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
import scipy.sparse as sp
from pydantic import Field

from perturbfm_core.config import Frozen
from perturbfm_core.models.base import MODELS
from perturbfm_core.models.baselines.effects import sum_parts
from perturbfm_core.models.baselines.kernels import (
    KernelSystem,
    SingleScores,
    inducing,
    median_distance,
    principal_axes,
    rbf,
)
from perturbfm_core.models.baselines.tuned import Solution, TunedBaseline
from perturbfm_core.models.search import FloatRange, IntRange, SearchSpace
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView


@MODELS.register("set_kernel_ridge")
class SetKernelRidge(TunedBaseline):
    """Predicts the train mean plus a kernel-weighted sum over all train conditions, singles and combinations.

    With e_a the delta of single a on the principal axes of all train deltas (zero where a was not measured as
    a single), the kernel of two sets of perturbed genes is

        RBF(sum of e_a, sum of e_b) + sum over pairs (a, b) of RBF(e_a, e_b)

    where ``RBF = exp(-d^2 / m)`` and m is the median of the non-zero d^2 among train conditions (first term)
    or among distinct train parts (second). The target is the residual to the mean of all train conditions.

    Notes
    -----
    Of more than 1,500 train conditions, as many stand for all (see `perturbfm_core.models.nystrom`).

    A train single's own delta is its feature. The error on unseen singles is therefore visible only if axes,
    features and fit are made again without the held-out rows, as is done for all inner folds here.
    """

    search_space: ClassVar[SearchSpace] = {
        "alphas": FloatRange(0.05, 50.0, listed=True),
        "components": IntRange(5, 200, log=True),
    }

    class Params(Frozen):
        """Parameters of `SetKernelRidge`; several `alphas` are compared by the inner folds.

        Attributes
        ----------
        alphas
            Ridge penalties; of several, the inner folds choose one.
        components
            Principal components of the single effects that the kernel compares.
        """

        alphas: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.5,), min_length=1)
        components: int = Field(default=60, ge=1)

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._scores = SingleScores()
        self._sums: FloatArray = np.zeros((0, 0))
        self._parts: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._part: IntArray = np.zeros(0, dtype=np.int64)
        self._owner: IntArray = np.zeros(0, dtype=np.int64)
        self._widths = (1.0, 1.0)
        self._global: FloatArray = np.zeros(0, dtype=np.float32)

    def _prepare(self, view: TrainView, seed: int) -> KernelSystem:
        self._scores.fit(view, principal_axes(view.delta, self.params.components, self.scale))
        rows = inducing(self.scale, len(view))
        columns = view.conditions if rows is None else view.conditions.iloc[rows]
        scores, self._owner = self._scores.parts(columns)
        self._sums = sum_parts(scores, self._owner, len(columns))
        # Few distinct parts make up many conditions, so the kernel between parts is computed once for each.
        self._parts, part = np.unique(scores, axis=0, return_inverse=True)
        self._part = part.reshape(-1).astype(np.int64)
        self._widths = (median_distance(self._sums, self.scale), median_distance(self._parts, self.scale))
        self._global = view.delta.mean(axis=0, dtype=np.float64).astype(np.float32)
        own = None if rows is None else self._diagonal(view.conditions)
        return KernelSystem(self._kernel(view.conditions), view.delta - self._global, rows, own)

    def _solve(self, prepared: KernelSystem, value: float) -> Solution:
        return {"coef": prepared.solve(value)}

    def _diagonal(self, conditions: pd.DataFrame) -> FloatArray:
        """Return float64 [C], the kernel of each condition with itself."""
        scores, owner = self._scores.parts(conditions)
        # Parts of a condition are adjacent, so that those of conditions with as many parts are a block each.
        size = np.bincount(owner, minlength=len(conditions))
        out = np.ones(len(conditions))
        for s in np.unique(size[size > 0]):
            own = scores[size[owner] == s].reshape(-1, s, scores.shape[1]).astype(np.float64)
            apart = ((own[:, :, None] - own[:, None]) ** 2).sum(axis=3)
            out[size == s] += np.exp(-apart / self._widths[1]).sum(axis=(1, 2))
        return out

    def _kernel(self, conditions: pd.DataFrame) -> FloatArray:
        """Return float64 [C, n], the kernel between conditions and the train conditions."""
        scores, owner = self._scores.parts(conditions)
        sums = sum_parts(scores, owner, len(conditions))
        # Sum over pairs of parts: first over the parts of the queries, then, by `members`, of train
        # conditions.
        pairs = sum_parts(rbf(scores, self._parts, self._widths[1]), owner, len(conditions))
        members = sp.csr_array(
            (np.ones(len(self._part)), (self._owner, self._part)), shape=(len(self._sums), len(self._parts))
        )
        out: FloatArray = rbf(sums, self._sums, self._widths[0]) + (members @ pairs.T).T
        return out

    def _describe(self, query: Query) -> FloatArray:
        return self._kernel(query.conditions)

    def _apply(self, described: FloatArray, solution: Solution) -> FloatArray:
        out: FloatArray = described @ solution["coef"] + self._global
        return out.astype(np.float32)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {
            "sums": self._sums,
            "parts": self._parts,
            "global": self._global,
            **self._scores.arrays(),
            **super()._state_arrays(),
        }

    def _state_meta(self) -> dict[str, Any]:
        return {
            "widths": list(self._widths),
            "part": self._part.tolist(),
            "owner": self._owner.tolist(),
            **self._scores.meta(),
        }

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        super()._restore(arrays, meta)
        self._sums, self._parts = arrays["sums"], arrays["parts"]
        self._part = np.asarray(meta["part"], dtype=np.int64)
        self._owner = np.asarray(meta["owner"], dtype=np.int64)
        self._global = arrays["global"]
        self._widths = (float(meta["widths"][0]), float(meta["widths"][1]))
        self._scores.restore(arrays, meta)
