"""Mean delta by number of perturbed genes, or of all conditions: the mean function of the set process."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbfm_core.models.perturbfm.interventions import interventions
from perturbfm_core.schema import FloatArray
from perturbfm_core.splits.view import Query, TrainView

_SHRINK_CONDITIONS = 5.0


class StrataMean:
    """Mean train delta of singles, pairs and larger sets, each shrunk to the mean of all conditions.

    Conditions whose parts are all at a dose of 0 count in no mean, and have a mean of 0.

    Parameters
    ----------
    by_size
        If false, the mean of all conditions is used for every condition.
    """

    def __init__(self, *, by_size: bool = True) -> None:
        self.by_size = by_size
        self.sizes: list[int] = []
        self.means: FloatArray = np.zeros((0, 0), dtype=np.float32)

    def fit(self, view: TrainView) -> StrataMean:
        """Average the deltas of each number of perturbed genes; every condition counts once."""
        size = interventions(view.conditions).sizes
        perturbed = view.delta[size > 0] if (size == 0).any() else view.delta
        overall = perturbed.sum(axis=0, dtype=np.float64) / max(len(perturbed), 1)
        self.sizes = sorted({int(s) for s in size if s}) if self.by_size else []
        rows = [overall]
        for s in self.sizes:
            own = view.delta[size == s].sum(axis=0, dtype=np.float64)
            rows.append((own + _SHRINK_CONDITIONS * overall) / ((size == s).sum() + _SHRINK_CONDITIONS))
        self.means = np.asarray(rows, dtype=np.float32)
        return self

    def predict(self, query: Query) -> FloatArray:
        """Return float32 [q, G]; a number of genes that train lacks gets the mean of all conditions."""
        row = {s: i + 1 for i, s in enumerate(self.sizes)}
        size = interventions(query.conditions).sizes
        out = np.asarray(self.means[[row.get(int(s), 0) for s in size]])
        out[size == 0] = 0.0
        return out

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """Return the means under a prefixed name."""
        return {f"{prefix}.means": self.means}

    def meta(self, prefix: str) -> dict[str, Any]:
        """Return the sizes under a prefixed name."""
        return {f"{prefix}.sizes": self.sizes}

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
