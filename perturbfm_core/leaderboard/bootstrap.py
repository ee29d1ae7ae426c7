"""Bootstrap intervals clustered by the unit that an experiment would draw again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perturbfm_core.schema import FloatArray

MIN_UNITS = 5
DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval, or None twice where there are too few units for any claim."""

    low: float | None
    high: float | None


class ClusteredBootstrap:
    """Weights of conditions under resampling of their units.

    Parameters
    ----------
    units
        The units that each condition touches. A condition of several units (a combination of two genes) is
        drawn as often as the product of their multiplicities.
    draws
        Number of bootstrap samples.
    seed
        Seed; the same units give the same draws.
    """

    def __init__(self, units: Sequence[tuple[str, ...]], draws: int = DRAWS, seed: int = 0) -> None:
        names = sorted({u for us in units for u in us})
        self.n_units = len(names)
        self._weights: FloatArray | None = None
        if self.n_units >= MIN_UNITS:
            position = {u: i for i, u in enumerate(names)}
            rng = np.random.default_rng(seed)
            multiplicity = rng.multinomial(self.n_units, np.full(self.n_units, 1 / self.n_units), size=draws)
            weights = np.ones((draws, len(units)))
            for c, us in enumerate(units):
                for u in us:
                    weights[:, c] *= multiplicity[:, position[u]]
            self._weights = weights

    def intervals(self, values: FloatArray) -> list[Interval]:
        """Return the interval of each column's mean over conditions; NaN conditions are left out.

        Parameters
        ----------
        values
            float [C, E].
        """
        if self._weights is None:
            return [Interval(None, None)] * values.shape[1]
        defined = np.isfinite(values)
        total = self._weights @ np.where(defined, values, 0.0)
        weight = self._weights @ defined.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = total / weight
        out = []
        for e in range(values.shape[1]):
            drawn = means[np.isfinite(means[:, e]), e]
            if len(drawn) < len(means) // 2:
                out.append(Interval(None, None))
                continue
            low, high = np.percentile(drawn, [2.5, 97.5])
            out.append(Interval(float(low), float(high)))
        return out
