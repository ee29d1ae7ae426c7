"""Direct effect: the change in expression of the gene that a perturbation targets.

It is the most predictable effect of an unseen perturbation, and the largest single entry of most deltas. A
process over perturbations cannot learn it, since the target is another gene each time, so it is removed
before and added back afterwards: ``delta_{i,j} = background + o_j`` where condition i perturbs gene j. The
effect o_j of a target is the best linear predictor from the mean effect of its modality and its own train
measurements. With `state` the mean effect is a quadratic function of the control expression of the target,
since a silent gene cannot be repressed.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from perturbfm_core.models.baselines.dose_response import DoseResponse
from perturbfm_core.models.perturbfm.interventions import Interventions, interventions
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

# How effects on targets are modelled apart: not at all, as a constant per modality, or by the target's control expression.
Direct = Literal["none", "constant", "state"]

# Ridge penalty on the two expression terms, per measurement.
_RIDGE = 1e-2
_MIN_TARGETS = 3


class DirectEffect:
    """Effects of perturbations on the expression of their own targets.

    Parameters
    ----------
    state
        Whether the mean effect depends on the target's control expression.
    """

    def __init__(self, *, state: bool = False) -> None:
        self.state = state
        self._genes: dict[str, int] = {}
        self._response = DoseResponse()
        self._modalities: list[str] = []
        self._coefficients: FloatArray = np.zeros((0, 3))
        self._labels: list[str] = []
        self._own: FloatArray = np.zeros(0)
        self._level = (0.0, 1.0)

    def fit(self, view: TrainView) -> DirectEffect:
        """Learn the mean effect of each modality, and the deviation of every target from it."""
        self._genes = {str(g): j for j, g in enumerate(view.genes)}
        self._response = DoseResponse.fit(view)
        parts, at, column = self._entries(view.query())
        self._modalities, self._labels = [], []
        self._coefficients, self._own = np.zeros((0, 3)), np.zeros(0)
        if view.control is not None:
            level = view.control.mean(axis=0)
            self._level = (float(level.mean()), float(level.std()) or 1.0)
        if not len(at):
            return self
        row = parts.owner[at]
        observed = view.delta[row, column] - self._background(view)[row, column]
        amount = parts.amount[at]
        design = self._design(view.control, row, column)
        modality = np.asarray(parts.modality)[at]
        fitted: Any = np.zeros(len(at))
        for name in np.unique(modality):
            mine = modality == name
            if len(np.unique(column[mine])) < _MIN_TARGETS:
                continue
            # In proportion to the dose, so that the noise of low ones is not scaled up.
            D = design[mine] * amount[mine][:, None]
            # Ridge regression on [1, x, x^2] with an unpenalised intercept; without state x is zero and only
            # the mean is fitted.
            penalty = _RIDGE * (amount[mine] ** 2).sum() * np.diag([0.0, 1.0, 1.0])
            beta = np.linalg.lstsq(D.T @ D + penalty, D.T @ observed[mine], rcond=None)[0]
            self._modalities.append(str(name))
            self._coefficients = np.vstack([self._coefficients, beta])
            fitted[mine] = D @ beta
        self._fit_own(np.asarray(parts.labels)[at], observed - fitted, amount)
        return self

    def _fit_own(self, labels: Any, departure: FloatArray, amount: FloatArray) -> None:
        """Estimate each target's own deviation, shrunk by the share of variance that lies between targets.

        It is the best linear predictor of a random effect; the variances are estimated by moments.

        Parameters
        ----------
        labels
            Gene and modality of each measurement [m].
        departure
            Measurements [m] less the mean of their modality.
        amount
            Amounts of their doses [m]: a deviation times the amount is what is measured.
        """
        names, code = np.unique(labels, return_inverse=True)
        n = np.bincount(code, amount**2)
        mean = np.bincount(code, amount * departure) / n
        # Method of moments: `within` is the pooled variance of repeated measurements of one target, and the
        # means of targets have a variance of between + within / n.
        dof = len(departure) - len(names)
        left = departure - amount * mean[code]
        within = float((left**2).sum() / dof) if dof > 0 else float(np.var(departure))
        between = max(float(np.var(mean)) - within * float((1 / n).mean()), 0.0)
        weight: Any = between / (between + within / n) if between > 0 else 0.0
        self._labels, self._own = [str(x) for x in names], np.asarray(mean * weight)

    def without(self, view: TrainView) -> FloatArray:
        """Return float32 [n, G], the deltas with every perturbed target set to its background."""
        out = view.delta.copy()
        parts, at, column = self._entries(view.query())
        row = parts.owner[at]
        out[row, column] = self._background(view)[row, column]
        return out

    def predict(self, query: Query) -> FloatArray:
        """Return float32 [q, G], the effect on the targets of each condition, zero elsewhere."""
        out = np.zeros((len(query), len(self._genes)), dtype=np.float32)
        parts, at, column = self._entries(query)
        if not len(at) or not self._modalities:
            return out
        row = parts.owner[at]
        kind = {m: i for i, m in enumerate(self._modalities)}
        own = dict(zip(self._labels, self._own, strict=True))
        index = np.asarray([kind.get(parts.modality[i], -1) for i in at], dtype=np.int64)
        mean = (self._design(query.control, row, column) * self._coefficients[index]).sum(axis=1)
        value = np.where(index >= 0, mean, 0.0) + np.asarray([own.get(parts.labels[i], 0.0) for i in at])
        np.add.at(out, (row, column), parts.amount[at] * value)
        return out

    def _entries(self, query: Query) -> tuple[Interventions, IntArray, IntArray]:
        """Return the parts, the positions of those whose target is measured, and the column of the target."""
        parts = interventions(query.conditions, self._response)
        column = np.asarray([self._genes.get(g, -1) for g in parts.genes], dtype=np.int64)
        at = np.flatnonzero(column >= 0)
        return parts, at, column[at]

    def _design(self, control: FloatArray | None, row: IntArray, column: IntArray) -> FloatArray:
        x: FloatArray = np.zeros(len(row))
        if self.state and control is not None:
            x = (control[row, column] - self._level[0]) / self._level[1]
        return np.stack([np.ones(len(row)), x, x**2], axis=1)

    def _background(self, view: TrainView) -> FloatArray:
        """Return float32 [n, G], the mean delta of each gene over the conditions that do not perturb it."""
        parts, at, column = self._entries(view.query())
        targeted = np.zeros(view.delta.shape, dtype=np.bool_)
        targeted[parts.owner[at], column] = True
        free = np.maximum((~targeted).sum(axis=0), 1)
        mean = np.where(targeted, 0.0, view.delta).sum(axis=0) / free
        return np.broadcast_to(mean.astype(np.float32), view.delta.shape)

    # ---- state -----------------------------------------------------------------------------------------

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the fitted arrays under prefixed names."""
        return {f"{prefix}.coefficients": self._coefficients, f"{prefix}.own": self._own}

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {
            f"{prefix}.labels": self._labels,
            f"{prefix}.modalities": self._modalities,
            f"{prefix}.response": self._response.meta(),
            f"{prefix}.level": list(self._level),
        }

    def restore(
        self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any], genes: list[str]
    ) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        genes
            Gene ids [G] in the order of fitting.
        """
        self._genes = {g: j for j, g in enumerate(genes)}
        self._coefficients, self._own = arrays[f"{prefix}.coefficients"], arrays[f"{prefix}.own"]
        self._labels, self._modalities = meta[f"{prefix}.labels"], meta[f"{prefix}.modalities"]
        self._response = DoseResponse.restored(meta, f"{prefix}.")
        low, spread = meta[f"{prefix}.level"]
        self._level = (float(low), float(spread))
