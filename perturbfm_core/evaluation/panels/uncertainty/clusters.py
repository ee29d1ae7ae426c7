"""Means over clusters of conditions, with confidence intervals over clusters.

Cells and genes of one perturbation are not independent replicates, so that the perturbation is the cluster.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from perturbfm_core.schema import FloatArray, StrArray

MIN_CLUSTERS = 2


def by_cluster(values: FloatArray, clusters: StrArray) -> FloatArray:
    """Return the mean of each cluster's defined values, in order of cluster names, without undefined clusters."""
    ok = np.isfinite(values)
    if not ok.any():
        return np.zeros(0)
    code = np.unique(clusters[ok], return_inverse=True)[1]
    return np.asarray(np.bincount(code, weights=values[ok]) / np.bincount(code))


def clustered_mean(
    values: FloatArray, clusters: StrArray, bounds: tuple[float, float] = (0.0, 1.0)
) -> dict[str, Any]:
    """Return {value, low, high, n_clusters}: the mean over clusters and its 95 % t interval within `bounds`.

    Parameters
    ----------
    values
        Values of conditions [C], NaN where undefined.
    clusters
        Cluster (perturbation) of each condition [C].
    bounds
        Smallest and largest possible value, to which the interval is clipped.
    """
    means = by_cluster(values, clusters)
    n = len(means)
    if not n:
        return {"value": None, "low": None, "high": None, "n_clusters": 0}
    value = float(means.mean())
    if n < MIN_CLUSTERS:
        return {"value": value, "low": None, "high": None, "n_clusters": n}
    reach = float(stats.t.ppf(0.975, n - 1) * means.std(ddof=1) / np.sqrt(n))
    low, high = np.clip([value - reach, value + reach], *bounds)
    return {"value": value, "low": float(low), "high": float(high), "n_clusters": n}
