"""Reliability of a measurement from halves of its cells, and the score that a noise-free prediction reaches."""

from __future__ import annotations

import numpy as np

_CORRELATIONS = ("pearson", "cosine", "corr")
_DISTANCES = ("pearson_distance", "cosine_distance")
# Made of a correlation, but none.
_OTHERS = ("distance", "rank", "edistance", "ceiling")
_ERRORS = ("rmse", "mae", "l2", "mean_rowwise_rmse", "mean_rowwise_mae")


def reliability(half: float) -> dict[str, float]:
    """Return the correlation of two whole replicates, and of one with the noise-free truth, from that of halves.

    Spearman-Brown: two replicates twice as large as the halves. The square root is the correlation of one of them with
    the truth (reliability and its index in classical test theory).
    """
    full = 2 * half / (1 + half) if half > 0 else 0.0
    return {"spearman_brown": full, "noise_free": float(np.sqrt(full))}


def noise_free(metric: str, half: float) -> float | None:
    """Return the value that the true effect can be expected to reach, None where that does not follow.

    Parameters
    ----------
    metric
        Name of the metric in its panel.
    half
        Its value for one half of the cells as the prediction of the other half.
    """
    if metric.startswith(_DISTANCES):
        return 1.0 - reliability(1.0 - half)["noise_free"]
    words = metric.split("_")
    if any(word in words for word in _CORRELATIONS) and not any(word in words for word in _OTHERS):
        return reliability(half)["noise_free"]
    # Two halves differ by four times the sampling variance of a whole condition.
    return half / 2 if metric in _ERRORS else None
