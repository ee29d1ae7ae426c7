"""Bounds of cell-eval2's numbers of shared strongest genes, where equal fold changes may come in any order.

The peer sorts more than 20 significant genes with a sort that is not stable.
"""

from __future__ import annotations

import numpy as np

from perturbfm_core.evaluation.panels.cell_eval2.aggregate import aggregates
from perturbfm_core.evaluation.panels.cell_eval2.differential import DifferentialExpression
from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Values
from perturbfm_core.evaluation.panels.cell_eval2.significance import CUTOFFS, adjusted_overlap
from perturbfm_core.evaluation.panels.cell_eval2.tables import TablePair, share
from perturbfm_core.evaluation.ties import largest, shared_bounds
from perturbfm_core.schema import FloatArray

Bounds = dict[str, tuple[FloatArray, FloatArray]]


def tie_bounds(pair: TablePair) -> Bounds:
    """Return {metric: (least [P], most [P])} over all orders of equal fold changes, of metrics that they differ for."""
    real, pred = _sizes(pair.real), _sizes(pair.pred)
    out: Bounds = {}
    for name, n in (("overlap", pair.n_real), ("precision", pair.n_pred)):
        for k in CUTOFFS:
            top = n if k is None else np.minimum(n, k)
            least, most = shared_bounds(largest(real, top), largest(pred, top))
            suffix = "" if k is None else f"_top{k}"
            out[f"de_wilcoxon_{name}{suffix}"] = share(least, top, 0.0), share(most, top, 0.0)
    least, most = shared_bounds(largest(real, pair.n_real), largest(pred, pair.n_real))
    out["de_wilcoxon_overlap_adjusted"] = adjusted_overlap(pair, least), adjusted_overlap(pair, most)
    return {name: (low, high) for name, (low, high) in out.items() if (low < high).any()}


def statistic_bounds(values: Values, bounds: Bounds) -> dict[str, dict[str, tuple[float, float]]]:
    """Return {statistic: {metric: (least, most)}} of values per perturbation that lie within bounds; none of ``std``."""
    sides = [
        aggregates(
            Values(
                values.names,
                {name: pair[i] for name, pair in bounds.items()},
                {name: values.present[name] for name in bounds},
                {},
            )
        )
        for i in range(2)
    ]
    return {
        statistic: {name: (row[name], sides[1][statistic][name]) for name in bounds}
        for statistic, row in sides[0].items()
        if statistic != "std"
    }


def _sizes(table: DifferentialExpression) -> FloatArray:
    """Return float64 [P, G]: size of the fold change of significant genes, larger than 0, and 0 of others."""
    size = np.maximum(np.abs(table.lfc), np.finfo(np.float64).tiny)
    return np.where(table.significant, size, 0.0)
