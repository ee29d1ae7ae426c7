"""Base class of the baselines: mean from train conditions, variance from out-of-fold residuals."""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from typing import Any, Self

import numpy as np

from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.models.base import Model
from perturbfm_core.models.outputs import checked_mean
from perturbfm_core.models.scale import USUAL, Scale
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.residuals import joined_out_of_fold
from perturbfm_core.splits.view import Query, TrainView

_SHRINK_CONDITIONS = 5.0
_VAR_FLOOR = 1e-6


class Baseline(Model):
    """A model of the mean whose variance is, per gene, that of its errors on held-out train conditions."""

    family = "baseline"
    scale: Scale = USUAL
    """Sizes beyond which the fit may approximate; the same for every fit, but where a test says otherwise."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self._var: FloatArray = np.zeros(0, dtype=np.float32)

    @abstractmethod
    def _mean(self, query: Query) -> FloatArray:
        """Return float [C, G], the predicted delta."""

    def _fit_variance(self, view: TrainView, seed: int) -> None:
        folds = _Held(view)
        for i, (fit, held) in enumerate(view.inner):
            other = self._unfitted()
            other._fit(view.subset(fit), seed)
            folds.take(i, other._checked(view.subset(held).query()))
            del other
        source, squares, n = "out_of_fold", folds.squares, len(folds.mean)
        self.oof = folds.out_of_fold()
        if not squares:
            # With a single unit nothing can be held out, so the in-sample errors are used.
            squares, n = [_squares(view.delta - self._checked(view.query()))], len(view)
            source = "in_sample"
        self._var = _gene_variance(np.sum(squares, axis=0), n)
        self.training["variance"] = {"source": source, "conditions": n, "inner_folds": len(view.inner)}

    def _unfitted(self) -> Self:
        """Return an unfitted model of the same configuration, for the training part of an inner fold."""
        other = type(self)(self.params)
        other.genes, other.side_info, other.scale = self.genes, self.side_info, self.scale
        return other

    def _checked(self, query: Query) -> FloatArray:
        """Return float [C, G], the predicted delta, refused if it is of another shape or not finite."""
        return checked_mean(self.name, self._mean(query), (len(query), len(query.genes)))

    def _predict(self, query: Query) -> Prediction:
        mean = np.asarray(self._checked(query), dtype=np.float32)
        return Prediction(mean=mean, var=np.broadcast_to(self._var, mean.shape).copy())

    def arrays(self) -> dict[str, FloatArray]:
        """Return the fitted arrays, including the per-gene variance."""
        return {"var": self._var, **self._state_arrays()}

    def meta(self) -> dict[str, Any]:
        """Return the fitted names."""
        return self._state_meta()

    def restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the arrays and names."""
        self._var = arrays["var"]
        self._restore({k: v for k, v in arrays.items() if k != "var"}, meta)

    def _state_arrays(self) -> dict[str, FloatArray]:
        return {}

    def _state_meta(self) -> dict[str, Any]:
        return {}

    def _restore(self, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that the two state methods returned."""


def _squares(residuals: FloatArray) -> FloatArray:
    """Return float64 [G], the sums of squares of residuals [n, G]."""
    return np.asarray(np.einsum("cg,cg->g", residuals, residuals, dtype=np.float64))


def _gene_variance(squares: FloatArray, n: int) -> FloatArray:
    """Return float32 [G], the mean of `n` squares by their sums [G], shrunk towards the mean over genes."""
    per_gene = squares / n
    shrunk = (n * per_gene + _SHRINK_CONDITIONS * per_gene.mean()) / (n + _SHRINK_CONDITIONS)
    return np.asarray(np.maximum(shrunk, _VAR_FLOOR), dtype=np.float32)


class _Held:
    """Predictions of the held-out conditions of all inner folds, one fold after the other in one matrix."""

    def __init__(self, view: TrainView) -> None:
        self.view = view
        self.rows = [np.flatnonzero(held) for _, held in view.inner]
        ends = np.cumsum([0, *map(len, self.rows)])
        self.places = [slice(a, b) for a, b in pairwise(ends)]
        self.mean: FloatArray = np.empty((ends[-1], len(view.genes)), dtype=np.float32)
        self.squares: list[FloatArray] = []

    def take(self, fold: int, mean: FloatArray) -> None:
        """Keep the predictions of the next fold."""
        self.mean[self.places[fold]] = mean
        self.squares.append(_squares(self._residuals(fold)))

    def _residuals(self, fold: int) -> FloatArray:
        residuals: FloatArray = self.view.delta[self.rows[fold]] - self.mean[self.places[fold]]
        return residuals

    def out_of_fold(self) -> OutOfFold | None:
        """Return the predictions, each with the variance of the residuals of the other folds."""
        if not self.squares:
            return None
        keys = [self.view.conditions.index[rows].to_numpy(dtype=object) for rows in self.rows]
        var = np.empty_like(self.mean)
        for i, place in enumerate(self.places):
            total, n = np.zeros(self.mean.shape[1]), 0
            for j, squares in enumerate(self.squares):
                if j == i:
                    continue
                # A condition that two folds hold out must not enter its own variance through the other fold.
                own = np.isin(keys[j], keys[i])
                total += _squares(self._residuals(j)[~own]) if own.any() else squares
                n += int((~own).sum())
            if not n and len(self.rows[i]) < 2:
                return None
            var[place] = _gene_variance(total, n) if n else _without_each(self._residuals(i))
        return joined_out_of_fold(self.view, self.view.inner, Prediction(mean=self.mean, var=var))


def _without_each(residuals: FloatArray) -> FloatArray:
    """Return float32 [n, G], the variance for each row computed from all other rows."""
    rows = range(len(residuals))
    others = (np.delete(residuals, i, axis=0) for i in rows)
    return np.stack([_gene_variance(_squares(r), len(r)) for r in others])
