"""Quantiles of calibration scores, weighted so that every exchangeable unit counts the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perturbfm_core.schema import BoolArray, FloatArray, IntArray

# Sums of weights that should equal a level differ from it by rounding.
_ROUNDING = 1e-11


def unit_weights(units: Sequence[tuple[str, ...]]) -> tuple[FloatArray, int]:
    """Return (float64 [n] weight of each row summing to 1, number of units).

    Every unit has the same weight, shared evenly by the rows that it touches.
    """
    names = sorted({u for us in units for u in us})
    position = {name: i for i, name in enumerate(names)}
    owner = np.repeat(np.arange(len(units)), [len(us) for us in units])
    unit = np.asarray([position[u] for us in units for u in us], dtype=np.int64)
    share = 1.0 / np.bincount(unit, minlength=len(names))[unit]
    weights = np.bincount(owner, weights=share, minlength=len(units))
    return np.asarray(weights / max(weights.sum(), 1e-300)), len(names)


def n_units(units: Sequence[tuple[str, ...]]) -> int:
    """Return the number of different units."""
    return len({u for us in units for u in us})


def row_weights(units: Sequence[tuple[str, ...]], rows: BoolArray) -> tuple[FloatArray, int]:
    """Return `unit_weights` of some rows as float64 [n], zero elsewhere."""
    out = np.zeros(len(units))
    chosen = np.flatnonzero(rows)
    out[chosen], n = unit_weights([units[int(i)] for i in chosen])
    return out, n


def weighted_quantiles(
    scores: FloatArray, weights: FloatArray, levels: FloatArray, *, at_infinity: float = 0.0
) -> FloatArray:
    """Return float64 [L]: the smallest score at which the distribution function reaches each level.

    Parameters
    ----------
    scores
        [n, m], e.g. of rows and genes.
    weights
        [n] of the rows; each is shared evenly by the m scores of its row.
    levels
        [L] between 0 and 1.
    at_infinity
        Share of the distribution that lies at infinity; a level that only it reaches gives infinity.
    """
    used = weights > 0
    return SortedScores(scores[used]).quantiles(weights[used], levels, at_infinity=at_infinity)


class SortedScores:
    """Scores [n, m] sorted once, for quantiles under many weights of their rows (see `weighted_quantiles`)."""

    def __init__(self, scores: FloatArray) -> None:
        flat = scores.reshape(-1)
        order = np.argsort(flat, kind="stable")
        self._values = np.append(flat[order], np.inf)
        self._row = order // scores.shape[1]

    def quantiles(self, weights: FloatArray, levels: FloatArray, *, at_infinity: float = 0.0) -> FloatArray:
        """Return float64 [L], the quantiles with the weights [n] of the rows."""
        cumulative = np.cumsum(weights[self._row])
        cumulative *= (1.0 - at_infinity) / cumulative[-1]
        return np.asarray(
            self._values[np.searchsorted(cumulative, np.asarray(levels) - _ROUNDING, side="left")]
        )


def hierarchical_quantiles(
    scores: FloatArray, units: Sequence[tuple[str, ...]], levels: FloatArray
) -> FloatArray:
    """Return float64 [L]: quantiles with weight 1/(n + 1) per unit and 1/(n + 1) at infinity.

    With exchangeable units and a score that none of them helped to choose, an interval of this half-width
    covers the score of a random gene of a new unit with at least the probability of the level. NaN where
    level (n + 1) > n: no finite interval has that guarantee.

    Source: conformal prediction for hierarchical data (Dunn, Wasserman and Ramdas 2023; Lee, Barber and
    Willett 2023).
    """
    weights, n = unit_weights(units)
    out = weighted_quantiles(scores, weights, levels, at_infinity=1.0 / (n + 1))
    return np.asarray(np.where(np.isfinite(out), out, np.nan))


def binned_quantiles(
    scores: FloatArray,
    weights: FloatArray,
    levels: FloatArray,
    gene_bin: IntArray,
    n_bins: int,
    *,
    at_infinity: float = 0.0,
) -> FloatArray:
    """Return float64 [L, bins]: `weighted_quantiles` of the genes of each bin; a bin without genes has NaN."""
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
    """Return (lower, upper), each [R, G]: the CV+ interval of Barber et al. 2021, unit by unit.

    It covers with probability of at least 1 - 2 (1 - level), up to terms in the size of the folds; not `level`.

    Parameters
    ----------
    fold_means
        [K, R, G], what the predictor of each fold says of the queries.
    scores
        [n, G], absolute residuals of the held-out rows (in units of `scale`).
    fold
        [n], the fold whose predictor left the row out.
    units
        Exchangeable units of each row.
    level
        Nominal coverage.
    scale
        [R, G], what a score is multiplied by at the queries; default 1.
    """
    weights, n = unit_weights(units)
    scale = np.ones(fold_means.shape[1:]) if scale is None else scale
    lower, upper = np.empty(fold_means.shape[1:]), np.empty(fold_means.shape[1:])
    for r in range(fold_means.shape[1]):
        reach = scores * scale[r]
        lower[r] = -_column_quantiles(reach - fold_means[fold, r], weights, n, level)
        upper[r] = _column_quantiles(reach + fold_means[fold, r], weights, n, level)
    return lower, upper


def _column_quantiles(values: FloatArray, weights: FloatArray, n: int, level: float) -> FloatArray:
    """Return [G], the conformal quantile of each column, with weight 1/(n + 1) at infinity."""
    order = np.argsort(values, axis=0, kind="stable")
    ordered = np.take_along_axis(values, order, axis=0)
    cumulative = np.cumsum(weights[order] * (n / (n + 1)), axis=0)
    at = (cumulative < level - _ROUNDING).sum(axis=0)
    padded = np.concatenate([ordered, np.full((1, values.shape[1]), np.inf)])
    return np.asarray(np.take_along_axis(padded, at[None], axis=0)[0])
