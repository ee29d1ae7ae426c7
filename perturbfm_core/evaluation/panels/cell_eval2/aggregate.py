"""Statistics of values over perturbations, as the peer tabulates them."""

from __future__ import annotations

import warnings

import numpy as np

from perturbfm_core.evaluation.panels.cell_eval2.evaluation import Values
from perturbfm_core.schema import FloatArray

STATISTICS = ("count", "null_count", "mean", "std", "min", "max", "median")


def aggregates(values: Values) -> dict[str, dict[str, float]]:
    """Return {statistic: {metric: value}}, metrics in alphabetical order.

    The count is that of rows, undefined ones too; all else is over the defined values. Metrics that have no value per
    perturbation have a mean only.
    """
    columns = {name: statistics(values.values[name][values.present[name]]) for name in values.values}
    for name, value in values.panel.items():
        columns[name] = {s: value if s == "mean" else np.nan for s in STATISTICS}
    return {s: {name: columns[name][s] for name in sorted(columns)} for s in STATISTICS}


def statistics(rows: FloatArray) -> dict[str, float]:
    """Return every statistic of the values of one metric, NaN where it has too few."""
    used = rows[~np.isnan(rows)]
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        some = len(used) > 0
        return {
            "count": float(len(rows)),
            "null_count": 0.0,
            "mean": float(used.mean()) if some else np.nan,
            "std": float(used.std(ddof=1)) if len(used) > 1 else np.nan,
            "min": float(used.min()) if some else np.nan,
            "max": float(used.max()) if some else np.nan,
            "median": float(np.median(used)) if some else np.nan,
        }
