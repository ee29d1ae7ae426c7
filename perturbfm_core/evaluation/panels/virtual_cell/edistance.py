"""Energy distances between each perturbation's cells and the controls, with plain Euclidean distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from perturbfm_core.evaluation.panels.virtual_cell.groups import CellGroups
from perturbfm_core.evaluation.single_distances import mean_between, mean_within, squared_norms
from perturbfm_core.schema import FloatArray


class ControlDistances:
    """The control cells, centred once, and the mean distance among them.

    Distances are those of `single_distances`.

    Parameters
    ----------
    X
        Control cells [n, G], dense.
    within
        The mean distance among the cells, where it is known.
    """

    def __init__(self, X: FloatArray, within: float | None = None) -> None:
        self.center = X.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.X = X.astype(np.float32) - self.center
        self.norm = squared_norms(self.X)
        self.within = mean_within(self.X, self.norm) if within is None else within


def energy_distances(groups: CellGroups, controls: ControlDistances) -> FloatArray:
    """Return float64 [P]: 2 mean |x - y| - mean |x - x'| - mean |y - y'|, x of the group, y controls.

    Means are over all pairs, a cell with itself included (V-statistic).
    """
    out = np.empty(len(groups))
    for i in range(len(groups)):
        X = groups.dense(i) - controls.center
        norm = squared_norms(X)
        between = mean_between(X, norm, controls.X, controls.norm)
        out[i] = 2.0 * between - mean_within(X, norm) - controls.within
    return out


def literal_energy_distances(groups: CellGroups, controls: Any) -> FloatArray:
    """Return `energy_distances` [P] with distances and means in the precision of the cells, as in cell-eval."""
    from sklearn.metrics import pairwise_distances

    def mean_distance(*matrices: FloatArray) -> Any:
        return pairwise_distances(*matrices).mean()

    controls = _dense(controls)
    within = mean_distance(controls)
    cells = (_dense(groups.get(i)) for i in range(len(groups)))
    return np.asarray(
        [2 * mean_distance(X, controls) - mean_distance(X) - within for X in cells], dtype=np.float64
    )


def _dense(X: Any) -> FloatArray:
    return np.asarray(X.toarray() if sp.issparse(X) else X)
