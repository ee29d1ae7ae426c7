"""Differential expression of each condition against all others, and gene weights derived from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from perturbfm_core.schema import BoolArray, FloatArray, IntArray

MIN_CELLS = 4
FDR = 0.05
# A spread below this share of the squared mean is rounding in single precision, not variance.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Contrast:
    """Each condition against all cells of the other conditions.

    Attributes
    ----------
    t
        float64 [C, G], t statistic; where neither side varies 0 if their means are equal, else infinite.
    p
        float64 [C, G], two-sided p-value; where neither side varies 1 if their means are equal, else 0.
    tested
        bool [C], whether the condition and the rest have enough cells; elsewhere `t` and `p` are NaN.
    """

    t: FloatArray
    p: FloatArray
    tested: BoolArray

    def head(self, n: int) -> Contrast:
        """Return the first `n` conditions."""
        return Contrast(self.t[:n], self.p[:n], self.tested[:n])


def against_rest(mean: FloatArray, squares: FloatArray, n: IntArray) -> Contrast:
    """Test every condition against the rest by Welch's t, overestimating the variance of the rest.

    The rest is counted with as many cells as the condition, so that its mean is not treated as more certain than
    the condition's because it has many more cells (scanpy's ``t-test_overestim_var``).

    Parameters
    ----------
    mean
        float64 [C, G], mean of the condition's cells.
    squares
        float64 [C, G], sum of squared deviations from that mean.
    n
        int64 [C], number of cells; conditions with fewer than 4 are neither tested nor part of the rest.
    """
    C = len(n)
    t, p = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    enough = n >= MIN_CELLS
    tested = enough & (enough.sum() > 1)
    rows = np.flatnonzero(tested)
    if not len(rows):
        return Contrast(t, p, np.zeros(C, dtype=np.bool_))
    m, q, k = mean[rows], squares[rows], n[rows].astype(np.float64)[:, None]
    # Deviations are taken from one centre, so that the rest is a difference of small numbers.
    total = k.sum()
    centre = (k * m).sum(axis=0) / total
    shift = m - centre
    # Sum of squares of all tested cells, minus the condition's own, minus that between the two means: what remains is
    # that of the rest around its own mean.
    all_squares = (q + k * shift**2).sum(axis=0)
    rest = total - k
    rest_shift = -k * shift / rest
    rest_squares = all_squares - q - k * shift**2 - rest * rest_shift**2
    rest_squares[rest_squares <= _ROUNDING * rest * (centre + rest_shift) ** 2] = 0.0
    own = np.where(q > _ROUNDING * k * m**2, q, 0.0) / (k - 1) / k
    other = rest_squares / (rest - 1) / k
    other[other <= 1e-15 * all_squares / total] = 0.0
    error = own + other
    gap = shift - rest_shift
    same = (error == 0) & (np.abs(gap) <= np.sqrt(_ROUNDING) * np.maximum(np.abs(m), np.abs(centre)))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = gap / np.sqrt(error)
        # Welch-Satterthwaite with k cells on both sides.
        freedom = error**2 * (k - 1) / (own**2 + other**2)
        chance = np.where(error == 0, 0.0, 2 * stdtr(freedom, -np.abs(found)))
    t[rows] = np.where(same, 0.0, found)
    p[rows] = np.where(same, 1.0, np.nan_to_num(chance, nan=1.0))
    return Contrast(t, p, tested)


def gene_weights(contrast: Contrast, *, as_peer: bool = False) -> FloatArray:
    """Return float64 [C, G] in [0, 1]: |t|, min-max scaled over genes and squared; zero where nothing was tested.

    The statistic is rounded to single precision, in which scanpy stores it.

    Parameters
    ----------
    contrast
        The test.
    as_peer
        Whether a gene of infinite t leaves its condition without weights, as in the peer's code; else it counts as the
        largest finite one does.
    """
    size = np.abs(contrast.t.astype(np.float32)).astype(np.float64)
    infinite = np.isinf(size)
    if as_peer:
        size[infinite.any(axis=1)] = 0.0
    else:
        largest = np.where(infinite, 0.0, size).max(axis=1, keepdims=True)
        size = np.where(infinite, np.where(largest > 0, largest, 1.0), size)
    low = size.min(axis=1, keepdims=True)
    span = size.max(axis=1, keepdims=True) - low
    scaled = np.divide(size - low, span, out=np.zeros_like(size), where=span > 0)
    return np.asarray(np.square(scaled))


def adjusted(p: FloatArray) -> FloatArray:
    """Return [C, G], p-values adjusted row by row after Benjamini and Hochberg; NaN rows stay NaN."""
    G = p.shape[1]
    order = np.argsort(p, axis=1)
    ranked = np.take_along_axis(p, order, axis=1) * (G / np.arange(1, G + 1))
    ranked = np.minimum.accumulate(ranked[:, ::-1], axis=1)[:, ::-1]
    out = np.empty_like(p)
    np.put_along_axis(out, order, np.minimum(ranked, 1.0), axis=1)
    return out


def significant(contrast: Contrast) -> BoolArray:
    """Return bool [C, G], the genes whose adjusted p-value is below 0.05."""
    return np.asarray(np.nan_to_num(adjusted(contrast.p), nan=1.0) < FDR)
