"""Weighted quantiles of calibration scores, in which every exchangeable unit has the same weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Tolerance for sums of weights that should equal a level but differ from it by rounding.
_ROUNDING = 1e-11


def unit_weights(units: Sequence[tuple[str, ...]]) -> tuple[FloatArray, int]:
    """Return (float64 [n] weight of each row, summing to 1, number of units).

    Every unit has the same total weight, shared evenly by its rows; a row of several units has a share of
    each.
    """
    names = sorted({u for us in units for u in us})
    position = {name: i for i, name in enumerate(names)}
    owner = np.repeat(np.arange(len(units)), [len(us) for us in units])
    unit = np.asarray([position[u] for us in units for u in us], dtype=np.int64)
    share = 1.0 / np.bincount(unit, minlength=len(names))[unit]
    weights = np.bincount(owner, weights=share, minlength=len(units))
    return np.asarray(weights / max(weights.sum(), 1e-300)), len(names)


def n_units(units: Sequence[tuple[str, ...]]) -> int:
    """Return the number of distinct units."""
    return len({u for us in units for u in us})


def row_weights(units: Sequence[tuple[str, ...]], rows: BoolArray) -> tuple[FloatArray, int]:
    """Return (`unit_weights` of the selected rows as float64 [n], zero elsewhere; their number of units)."""
    out = np.zeros(len(units))
    chosen = np.flatnonzero(rows)
    out[chosen], n = unit_weights([units[int(i)] for i in chosen])
    return out, n


def weighted_quantiles(
    scores: FloatArray, weights: FloatArray, levels: FloatArray, *, at_infinity: float = 0.0
) -> FloatArray:
    """Return float64 [L], the smallest score at which the distribution function reaches each level.

    Parameters
    ----------
    scores
        float [n, m], for example of n rows and m genes.
    weights
        float [n], weights of the rows; each is shared evenly by the m scores of its row.
    levels
        float [L], between 0 and 1.
    at_infinity
        Share of the distribution that lies at infinity; a level that is reached only there gives infinity.
    """
    used = weights > 0
    return SortedScores(scores[used]).quantiles(weights[used], levels, at_infinity=at_infinity)


class SortedScores:
    """Scores [n, m] that are sorted once, for quantiles under many weightings of their rows.

    See `weighted_quantiles`.
    """

    def __init__(self, scores: FloatArray) -> None:
        flat = scores.reshape(-1)
        order = np.argsort(flat, kind="stable")
        self._values = np.append(flat[order], np.inf)
        self._row = order // scores.shape[1]

    def quantiles(self, weights: FloatArray, levels: FloatArray, *, at_infinity: float = 0.0) -> FloatArray:
        """Return float64 [L], the quantiles under given weights of the rows.

        Parameters
        ----------
        weights
            float [n], weights of the rows, of any scale.
        levels
            float [L], between 0 and 1.
        at_infinity
            Share of the distribution that lies at infinity.
        """
        cumulative = np.cumsum(weights[self._row])
        # Every row has the same number of scores, so dividing by the total shares its weight evenly among
        # them.
        cumulative *= (1.0 - at_infinity) / cumulative[-1]
        return np.asarray(
            self._values[np.searchsorted(cumulative, np.asarray(levels) - _ROUNDING, side="left")]
        )


def binned_quantiles(
    scores: FloatArray,
    weights: FloatArray,
    levels: FloatArray,
    gene_bin: IntArray,
    n_bins: int,
    *,
    at_infinity: float = 0.0,
) -> FloatArray:
    """Return float64 [L, bins]: `weighted_quantiles` over the genes of each bin, NaN for a bin without genes.

    Parameters
    ----------
    scores
        float [n, G], absolute residuals in predicted standard deviations.
    weights
        float [n], weights of the rows.
    levels
        float [L], nominal coverage.
    gene_bin
        int [G], bin of each gene.
    n_bins
        Number of bins.
    at_infinity
        Share of the distribution that lies at infinity; levels that are reached only there give NaN.
    """
    out = np.full((len(levels), n_bins), np.nan)
    for b in range(n_bins):
        genes = np.flatnonzero(gene_bin == b)
        if len(genes):
            out[:, b] = weighted_quantiles(scores[:, genes], weights, levels, at_infinity=at_infinity)
    return np.asarray(np.where(np.isfinite(out), out, np.nan))


def cv_plus(
    fold_means: FloatArray,
    scores: FloatArray,
    fold: IntArray,
    units: Sequence[tuple[str, ...]],
    level: float,
    scale: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Return (lower, upper), each float64 [R, G]: the CV+ interval of Barber et al. 2021, weighted by unit.

    Its coverage is at least 1 - 2 (1 - level), up to terms in the size of the folds; it is not `level`.

    Parameters
    ----------
    fold_means
        float [K, R, G], prediction of the queries by the predictor of each fold.
    scores
        float [n, G], absolute residuals of the held-out rows (in units of `scale`).
    fold
        int [n], the fold whose predictor did not use the row.
    units
        Exchangeable units of each row [n].
    level
        Nominal coverage.
    scale
        float [R, G], factor on the scores at each query, such as its predicted standard deviation; default 1.
    """
    weights, n = unit_weights(units)
    scale = np.ones(fold_means.shape[1:]) if scale is None else scale
    lower, upper = np.empty(fold_means.shape[1:]), np.empty(fold_means.shape[1:])
    for r in range(fold_means.shape[1]):
        reach = scores * scale[r]
        # Each held-out row i gives an interval mean_fold(i) -/+ score_i around its own fold's prediction; the
        # bounds are quantiles over rows: the upper one of (mean + score), the lower one of -(mean - score),
        # negated.
        lower[r] = -_column_quantiles(reach - fold_means[fold, r], weights, n, level)
        upper[r] = _column_quantiles(reach + fold_means[fold, r], weights, n, level)
    return lower, upper


def _column_quantiles(values: FloatArray, weights: FloatArray, n: int, level: float) -> FloatArray:
    """Return [G], the conformal quantile of each column of `values` [n, G], with 1/(n + 1) at infinity."""
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, axis=0)
    cumulative = np.cumsum(weights[order] * (n / (n + 1)), axis=0)
    at = (cumulative < level - _ROUNDING).sum(axis=0)
    padded = np.concatenate([ordered, np.full((1, values.shape[1]), np.inf)])
    return np.asarray(np.take_along_axis(padded, at[None], axis=0)[0])
