"""Base class of baselines with one hyperparameter, chosen on the inner folds of the train view."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np

from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.models.baselines.effects import is_single
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView

Solution = dict[str, FloatArray]
_STRATA = ("single", "combination")


class TunedBaseline(Baseline):
    """A baseline that chooses the value of one parameter with the smallest error on inner folds.

    The error is the squared error, summed over held-out conditions and genes. Everything that is learnt from
    data is learnt again without the held-out rows. Singles and combinations each have their own value, since
    unseen genes and unseen pairs are not equally predictable; if only one of the two was held out, its value
    is used for both. With one value, or no inner folds, nothing is compared and the middle value is taken.
    """

    tuned: ClassVar[str] = "alphas"
    """Name of the parameter that lists the values."""

    chosen: ClassVar[str] = "alpha"
    """Name of the chosen value in `training`."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._fixed: tuple[Any, Any] | None = None
        self._choice: tuple[Any, Any] | None = None
        self._solutions: list[Solution] = []

    @abstractmethod
    def _prepare(self, view: TrainView, seed: int) -> Any:
        """Learn everything that does not depend on the value; return the further input of `_solve`."""

    @abstractmethod
    def _solve(self, prepared: Any, value: Any) -> Solution:
        """Finish the fit with one value."""

    @abstractmethod
    def _describe(self, query: Query) -> Any:
        """Return the part of the prediction that does not depend on the value."""

    @abstractmethod
    def _apply(self, described: Any, solution: Solution) -> FloatArray:
        """Return float [C, G], the delta that one solution predicts."""

    def _fit(self, view: TrainView, seed: int) -> None:
        self._choice = self._fixed or self._choose(view, seed)
        both = dict(zip(_STRATA, self._choice, strict=True))
        self.training[self.chosen] = both if len(set(self._choice)) > 1 else self._choice[0]
        prepared = self._prepare(view, seed)
        self._solutions = [self._solve(prepared, value) for value in dict.fromkeys(self._choice)]

    def _choose(self, view: TrainView, seed: int) -> tuple[Any, Any]:
        """Return the value for singles and the value for combinations."""
        values = list(getattr(self.params, self.tuned))
        middle = values[len(values) // 2]
        if len(values) == 1 or not view.inner:
            return middle, middle
        errors = np.zeros((2, len(values)))
        for fit, held in view.inner:
            part = view.subset(held)
            alone = is_single(part.conditions)
            other = super()._unfitted()
            prepared = other._prepare(view.subset(fit), seed)
            described = other._describe(part.query())
            for i, value in enumerate(values):
                residual = part.delta - other._apply(described, other._solve(prepared, value))
                lost = np.einsum("cg,cg->c", residual, residual, dtype=np.float64)
                errors[:, i] += lost[alone].sum(), lost[~alone].sum()
        # A stratum on which all values have the same error is ignored.
        single, combo = (values[int(np.argmin(e))] if np.ptp(e) > 0 else None for e in errors)
        one = middle if single is None and combo is None else single if combo is None else combo
        return (one if single is None else single, one if combo is None else combo)

    def _unfitted(self) -> Self:
        other = super()._unfitted()
        # The values are chosen once and used in every inner fold, as in the final fit.
        other._fixed = self._choice
        return other

    def _mean(self, query: Query) -> FloatArray:
        if len(self._solutions) == 1:
            return self._apply(self._describe(query), self._solutions[0])
        out = np.zeros((len(query), len(self.genes)), dtype=np.float32)
        single = is_single(query.conditions)
        for rows, solution in zip((single, ~single), self._solutions, strict=True):
            if rows.any():
                control = None if query.control is None else query.control[rows]
                part = Query(query.conditions[rows], query.genes, control)
                out[rows] = self._apply(self._describe(part), solution)
        return out

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {f"{i}.{key}": value for i, s in enumerate(self._solutions) for key, value in s.items()}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        self._solutions = []
        while True:
            prefix = f"{len(self._solutions)}."
            found = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            if not found:
                break
            self._solutions.append(found)
