"""Scores and ranks across methods, as scPerturBench publishes them.

Its tables have no raw values: within one evaluated item each distance is scaled between the best and the worst method,
so that adding a method changes every score. This project stores raw values and derives these scores from them. The
formulas were recovered from, and agree with, the published tables of scPerturBench (bm2-lab/scPerturBench).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perturbfm_core.schema import FloatArray

# Raw metric -> column of the published tables. Distances are scaled; correlation and overlap are not.
SCALED = {
    "edistance": "edistance_score",
    "mse": "mse_score",
    "sym_kldiv": "sym_score",
    "wasserstein": "was_score",
}
CORRELATION = ("pearson_distance", "cor")
OVERLAP = ("common_degs", "DEG_score")
SCORES = (CORRELATION[1], *SCALED.values(), OVERLAP[1])


def published_scores(raw: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Return scores, their mean and ranks of methods that were evaluated on the same item.

    Parameters
    ----------
    raw
        {metric: float [..., M]} over methods; any of the six metrics may be absent (scPerturBench has no
        `wasserstein` and no `common_degs` at top 5000). NaN is an undefined value.

    Returns
    -------
    {column: float64 [..., M]}
        The scores (larger is better), ``ac_score`` (their mean), ``Rank_<score>`` (1 is best, ties get the
        smallest rank), ``ac_rank`` (mean of those ranks) and ``Rank`` (rank of `ac_rank`). An undefined
        correlation counts as 0, as published. Any other undefined value, and a distance that is the same for
        all methods, gives NaN and is left out of the means.
    """
    scores: dict[str, FloatArray] = {}
    if CORRELATION[0] in raw:
        r = 1.0 - np.asarray(raw[CORRELATION[0]], dtype=np.float64)
        scores[CORRELATION[1]] = np.where(np.isnan(r), 0.0, r)
    for metric, column in SCALED.items():
        if metric in raw:
            scores[column] = _scaled(np.asarray(raw[metric], dtype=np.float64))
    if OVERLAP[0] in raw:
        scores[OVERLAP[1]] = np.asarray(raw[OVERLAP[0]], dtype=np.float64)
    ranks = {f"Rank_{column}": _rank(values) for column, values in scores.items()}
    ac_rank = _mean(list(ranks.values()))
    return {
        **scores,
        "ac_score": _mean(list(scores.values())),
        **ranks,
        "ac_rank": ac_rank,
        "Rank": _rank(-ac_rank),
    }


def _scaled(x: FloatArray) -> FloatArray:
    low = np.where(np.isnan(x), np.inf, x).min(axis=-1, keepdims=True)
    high = np.where(np.isnan(x), -np.inf, x).max(axis=-1, keepdims=True)
    out = np.full(x.shape, np.nan)
    np.divide(x - low, high - low, out=out, where=~np.isnan(x) & (high > low))
    return np.asarray(1.0 - out)


def _rank(x: FloatArray) -> FloatArray:
    """Return the rank of each value, 1 for the largest; ties get the smallest rank, NaN stays NaN."""
    better = (x[..., None, :] > x[..., :, None]).sum(axis=-1)
    return np.where(np.isnan(x), np.nan, better + 1.0)


def _mean(columns: list[FloatArray]) -> FloatArray:
    stack = np.stack(columns)
    defined = ~np.isnan(stack)
    count = defined.sum(axis=0)
    total = np.where(defined, stack, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
