"""Bootstrap confidence intervals clustered by experimental unit.

The unit is what another experiment would sample anew: the perturbed genes, or the contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perturbfm_core.schema import BoolArray, FloatArray, IntArray

MIN_UNITS = 5
DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval; both ends are None where the conditions with a value are of too few units."""

    low: float | None
    high: float | None


class ClusteredBootstrap:
    """Weights of conditions under resampling of their units.

    Parameters
    ----------
    units
        The units of each condition. The weight of a condition with several units (a combination of two genes) is
        the product of their multiplicities.
    draws
        Number of bootstrap samples.
    seed
        Seed; the same units give the same draws.
    """

    def __init__(self, units: Sequence[tuple[str, ...]], draws: int = DRAWS, seed: int = 0) -> None:
        names = sorted({u for us in units for u in us})
        self.n_units = len(names)
        self._weights: FloatArray | None = None
        position = {u: i for i, u in enumerate(names)}
        members = [(c, position[u]) for c, us in enumerate(units) for u in us]
        self._condition, self._unit = np.asarray(members, dtype=np.int64).reshape(-1, 2).T
        if self.n_units >= MIN_UNITS:
            rng = np.random.default_rng(seed)
            multiplicity = rng.multinomial(self.n_units, np.full(self.n_units, 1 / self.n_units), size=draws)
            weights = np.ones((draws, len(units)))
            for c, us in enumerate(units):
                for u in us:
                    weights[:, c] *= multiplicity[:, position[u]]
            self._weights = weights

    def count_units(self, defined: BoolArray) -> IntArray:
        """Return int64 [M], the number of units of the conditions where each row of bool [M, C] holds."""
        patterns, of_row = np.unique(np.packbits(defined, axis=1), axis=0, return_inverse=True)
        held = np.unpackbits(patterns, axis=1, count=defined.shape[1]).astype(np.bool_)
        sizes = [len(np.unique(self._unit[row[self._condition]])) for row in held]
        return np.asarray(sizes, dtype=np.int64)[of_row.ravel()]

    def intervals(self, values: FloatArray) -> list[Interval]:
        """Return the interval of each column's mean over conditions; NaN conditions are left out.

        Parameters
        ----------
        values
            float [C, E], one row per condition, one column per entry.
        """
        return self.ratio_intervals([values], [np.isfinite(values).astype(np.float64)])

    def means(self, values: FloatArray) -> FloatArray | None:
        """Return float [draws, E], the mean over conditions [C, E] in every draw; None with too few units."""
        if self._weights is None:
            return None
        return _quotient(*_sums(values, np.ones_like(values), self._weights))

    @staticmethod
    def ratio(numerators: Sequence[FloatArray], denominators: Sequence[FloatArray]) -> FloatArray:
        """Return [E], sums of numerators over sums of denominators, averaged over the parts.

        Parameters
        ----------
        numerators, denominators
            Per part float [C, E]; a condition counts where both are defined. The result is NaN where a sum of
            denominators is 0. With denominators of one it is the mean.
        """
        parts = [_quotient(*_sums(a, b)) for a, b in zip(numerators, denominators, strict=True)]
        return np.asarray(np.mean(parts, axis=0))

    def ratio_intervals(
        self, numerators: Sequence[FloatArray], denominators: Sequence[FloatArray]
    ) -> list[Interval]:
        """Return the interval of each column of `ratio`; none where its conditions are of too few units."""
        width = numerators[0].shape[1]
        if self._weights is None:
            return [Interval(None, None)] * width
        defined = [np.isfinite(a) & np.isfinite(b) for a, b in zip(numerators, denominators, strict=True)]
        few = np.min([self.count_units(d.T) for d in defined], axis=0) < MIN_UNITS
        parts = [
            _quotient(*_sums(a, b, self._weights)) for a, b in zip(numerators, denominators, strict=True)
        ]
        low, high = percentile_interval(np.mean(parts, axis=0).T)
        return [
            Interval(None, None) if np.isnan(a) or is_few else Interval(float(a), float(b))
            for a, b, is_few in zip(low, high, few, strict=True)
        ]

    def row_intervals(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return (low, high), each [M], of the mean of every row of values [M, C]; NaN where there is none."""
        drawn = self.row_means(values)
        if drawn is None:
            nothing = np.full(len(values), np.nan)
            return nothing, nothing.copy()
        return percentile_interval(drawn)

    def row_means(self, values: FloatArray) -> FloatArray | None:
        """Return [M, draws], the mean of every row of values [M, C] in every draw; None with too few units.

        A row whose conditions are of too few units is NaN.
        """
        if self._weights is None:
            return None
        ok = np.isfinite(values)
        above = np.where(ok, values, 0.0) @ self._weights.T
        # Rows that are defined on the same conditions share the sum of the weights.
        patterns, of_row = np.unique(np.packbits(ok, axis=1), axis=0, return_inverse=True)
        defined = np.unpackbits(patterns, axis=1, count=ok.shape[1]).astype(np.float64)
        below = defined @ self._weights.T
        below[self.count_units(defined.astype(np.bool_)) < MIN_UNITS] = 0.0
        return _quotient(above, below[of_row.ravel()])

    def row_ratios(self, upper: FloatArray, lower: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """Return (sum of each row above over that below, [M]; the same in every draw, [M, draws], or None).

        Parameters
        ----------
        upper, lower
            float [M, C]; a condition counts where both are defined.
        """
        ok = np.isfinite(upper) & np.isfinite(lower)
        above, below = np.where(ok, upper, 0.0), np.where(ok, lower, 0.0)
        whole = _quotient(above.sum(axis=1), below.sum(axis=1))
        if self._weights is None:
            return whole, None
        drawn = below @ self._weights.T
        drawn[self.count_units(ok) < MIN_UNITS] = 0.0
        return whole, _quotient(above @ self._weights.T, drawn)


def percentile_interval(drawn: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the 2.5th and the 97.5th percentile of every row [M, draws], each [M].

    Draws that are NaN are left out; where they are more than half there is no interval, and both ends are NaN.
    """
    ordered = np.sort(drawn, axis=1)
    n = np.isfinite(drawn).sum(axis=1)
    enough = n >= max(drawn.shape[1] // 2, 1)
    rows = np.arange(len(drawn))
    ends = []
    for q in (0.025, 0.975):
        place = q * (np.maximum(n, 1) - 1)
        at = np.floor(place).astype(np.int64)
        t = place - at
        a, b = ordered[rows, at], ordered[rows, np.minimum(at + 1, np.maximum(n, 1) - 1)]
        # From the nearer end, so that the result never leaves [a, b].
        ends.append(np.where(enough, np.where(t < 0.5, a + (b - a) * t, b - (b - a) * (1 - t)), np.nan))
    return ends[0], ends[1]


def _sums(
    numerator: FloatArray, denominator: FloatArray, weights: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return weighted sums over conditions of both, over the conditions where both are defined."""
    ok = np.isfinite(numerator) & np.isfinite(denominator)
    above, below = np.where(ok, numerator, 0.0), np.where(ok, denominator, 0.0)
    if weights is None:
        return above.sum(axis=0), below.sum(axis=0)
    return weights @ above, weights @ below


def _quotient(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0))
