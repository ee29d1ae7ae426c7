"""Mean delta by number of perturbed genes, or of all conditions, in proportion to the dose: the mean of the set process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.models.baselines.dose_response import DoseResponse
from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.splits.view import Query, TrainView

_SHRINK_CONDITIONS = 5.0
_NO_DOSE = 1e-12


class StrataMean:
    """Mean train delta of singles, pairs and larger sets, each shrunk to the mean of all conditions.

    It is that of the largest dose, found by least squares, and times the mean amount of a condition's parts. Conditions
    whose parts are all at a dose of 0 thus count in no mean, and have a mean of 0.

    Parameters
    ----------
    by_size
        If false, the mean of all conditions is used for every condition.
    """

    def __init__(self, *, by_size: bool = True) -> None:
        self.by_size = by_size
        self.sizes: list[int] = []
        self.means: FloatArray = np.zeros((0, 0), dtype=np.float32)
        self._response = DoseResponse()

    def fit(self, view: TrainView) -> StrataMean:
        """Average the deltas of each number of perturbed genes; without doses every condition counts once."""
        self._response = DoseResponse.fit(view)
        size, strength = self._strengths(view.conditions)
        self.sizes = sorted({int(s) for s in size if s}) if self.by_size else []
        # Products with amounts that are all 1 would only copy.
        delta = view.delta if (strength == 1.0).all() else view.delta * strength[:, None].astype(np.float32)
        square = strength**2
        overall = delta.sum(axis=0, dtype=np.float64) / max(float(square.sum()), _NO_DOSE)
        rows = [overall]
        for s in self.sizes:
            own, count = delta[size == s].sum(axis=0, dtype=np.float64), float(square[size == s].sum())
            rows.append((own + _SHRINK_CONDITIONS * overall) / (count + _SHRINK_CONDITIONS))
        self.means = np.asarray(rows, dtype=np.float32)
        return self

    def predict(self, query: Query) -> FloatArray:
        """Return float32 [q, G]; a number of genes that train lacks gets the mean of all conditions."""
        row = {s: i + 1 for i, s in enumerate(self.sizes)}
        size, strength = self._strengths(query.conditions)
        out = np.asarray(self.means[[row.get(int(s), 0) for s in size]])
        out *= strength[:, None].astype(np.float32)
        return out

    def _strengths(self, conditions: pd.DataFrame) -> tuple[IntArray, FloatArray]:
        """Return int64 [n] and float64 [n]: number of parts, and their mean amount (0 without any)."""
        parts = interventions(conditions, self._response)
        amount = np.bincount(parts.owner, parts.amount, minlength=parts.n)
        return parts.sizes, amount / np.maximum(parts.sizes, 1)

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the means under a prefixed name."""
        return {f"{prefix}.means": self.means}

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the fitted state that is not an array."""
        return {f"{prefix}.sizes": self.sizes, f"{prefix}.response": self._response.meta()}

    def restore(self, prefix: str, arrays: dict[str, FloatArray], meta: dict[str, Any]) -> None:
        """Restore the state that `arrays` and `meta` returned.

        Parameters
        ----------
        prefix
            Prefix of the names, as given to `arrays` and `meta`.
        arrays
            Saved arrays by name.
        meta
            Saved JSON state by name.
        """
        self.means, self.sizes = arrays[f"{prefix}.means"], [int(s) for s in meta[f"{prefix}.sizes"]]
        self._response = DoseResponse.restored(meta, f"{prefix}.")
