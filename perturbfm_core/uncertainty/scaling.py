"""Post-hoc scaling of the predictive variance, fitted on residuals of held-out conditions.

The scaled variance is ``var * factor[bin of the gene] * exp(slope * x + offset[stratum])``, where x is the
log of the predicted effect size minus its mean over the calibration rows. Errors grow with the effect and
with the share of a condition that is new; a variance that ignores this covers hard conditions too seldom, and
cannot tell them from easy ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from perturbfm_core.data.prediction import OutOfFold, Prediction
from perturbfm_core.schema import FloatArray, IntArray
from perturbfm_core.uncertainty.config import ScaleConfig
from perturbfm_core.uncertainty.groups import effect_size, novelty, novelty_of_residuals, varies
from perturbfm_core.uncertainty.quantiles import row_weights, unit_weights

# Prior standard deviation of the slope (prior mean zero); slope 1 means a variance proportional to the effect
# size.
_SLOPE_SD = 1.0
# Strength of shrinkage of a stratum's offset to zero, in numbers of units.
_STRATUM_PRIOR = 5.0
# Share of the weight on each side that is winsorised.
_WINSOR = 0.1
_SMALLEST = 1e-12
# Log of the ratio to the largest predicted effect below which an effect counts as zero.
_LOG_NOTHING = float(np.log(1e-6))


@dataclass(frozen=True, eq=False)
class Scaling:
    """A fitted scaling.

    Attributes
    ----------
    gene_bin
        int16 [G], bin of each gene.
    factor
        float64 [bins], factor on the variance.
    slope
        Power of the predicted effect size with which the variance grows.
    centre, low, high
        Mean log effect size of the calibration rows, and the range outside which x is not extrapolated.
    offset
        Log factor of each stratum of conditions; a stratum without calibration rows has none.
    fitted
        Perturbations that the final model was fitted on.
    """

    gene_bin: IntArray
    factor: FloatArray
    slope: float
    centre: float
    low: float
    high: float
    offset: dict[str, float]
    fitted: frozenset[str]

    @classmethod
    def fit(
        cls, residuals: OutOfFold, gene_bin: IntArray, config: ScaleConfig, fitted: frozenset[str]
    ) -> Scaling:
        """Fit the scaling; every unit has the same weight, and extreme units and genes are winsorised.

        Parameters
        ----------
        residuals
            Residuals [n, G] of conditions that their predictor was not fitted on.
        gene_bin
            int16 [G], bin of each gene.
        config
            Which of the three terms are fitted.
        fitted
            Perturbations that the final model was fitted on.
        """
        # Squared errors in units of the predicted variance [n, G]: their mean is 1 if the variance is right.
        squared = residuals.residual**2 / np.maximum(residuals.prediction.var.astype(np.float64), _SMALLEST)
        weights, n = unit_weights(residuals.units)
        strata = novelty_of_residuals(residuals).strata
        slope, centre, low, high = 0.0, 0.0, 0.0, 0.0
        if config.effect:
            slope, centre, low, high = _slope(residuals, strata, squared.mean(axis=1), weights, n)
        bins = gene_bin if config.gene_scale else np.zeros_like(gene_bin)
        out = cls(bins, np.ones(int(bins.max(initial=0)) + 1), slope, centre, low, high, {}, fitted)
        if config.stratum:
            growth = out._log_growth(residuals.prediction.mean, strata)
            # Log error [n] of each condition that the slope leaves; what the offsets leave, the gene bins
            # absorb.
            left = np.log(squared.mean(axis=1) + _SMALLEST) - growth
            out = replace(out, offset=_offsets(left, strata, residuals.units, weights))
        squared /= np.exp(out._log_growth(residuals.prediction.mean, strata))[:, None]
        factor = np.asarray(
            [
                _robust_mean(_level_genes(squared[:, bins == b], weights).mean(axis=1), weights)
                for b in range(len(out.factor))
            ]
        )
        return replace(out, factor=np.maximum(factor, _SMALLEST))

    def apply(self, prediction: Prediction, conditions: pd.DataFrame) -> Prediction:
        """Return the prediction of conditions [C] with its variance scaled.

        Intervals are dropped, since they are multiples of the unscaled standard deviation.
        """
        return self._scaled(prediction, novelty(conditions, self.fitted).strata)

    def apply_to_residuals(self, residuals: OutOfFold) -> OutOfFold:
        """Return the residuals with scaled variance; the strata are relative to the predictor of each row."""
        strata = novelty_of_residuals(residuals).strata
        return replace(residuals, prediction=self._scaled(residuals.prediction, strata))

    def _scaled(self, prediction: Prediction, strata: list[str]) -> Prediction:
        growth = np.exp(self._log_growth(prediction.mean, strata))
        times = self.factor[self.gene_bin][None] * growth[:, None]
        epistemic = prediction.var_epistemic
        return replace(
            prediction,
            var=np.asarray(prediction.var * times, dtype=np.float32),
            var_epistemic=None if epistemic is None else np.asarray(epistemic * times, dtype=np.float32),
            intervals=None,
        )

    def _log_growth(self, mean: FloatArray, strata: list[str]) -> FloatArray:
        x = np.clip(_log_size(mean), self.low, self.high) - self.centre
        return np.asarray(self.slope * x + np.asarray([self.offset.get(s, 0.0) for s in strata]))

    def describe(self) -> dict[str, Any]:
        """Return the content for ``calibration.json``."""
        return {"factor": self.factor.tolist(), "effect_slope": self.slope, "stratum_offset": self.offset}

    def arrays(self) -> dict[str, Any]:
        """Return the arrays to save."""
        return {"scale.gene_bin": self.gene_bin.astype(np.int16), "scale.factor": self.factor}

    def meta(self) -> dict[str, Any]:
        """Return the numbers to save."""
        return {
            "slope": self.slope,
            "centre": self.centre,
            "low": self.low,
            "high": self.high,
            "offset": self.offset,
            "fitted": sorted(self.fitted),
        }

    @classmethod
    def restore(cls, arrays: dict[str, Any], meta: dict[str, Any]) -> Scaling:
        """Restore the state that `arrays` and `meta` returned."""
        known = {**meta, "fitted": frozenset(meta["fitted"])}
        return cls(arrays["scale.gene_bin"], arrays["scale.factor"], **known)


def _log_size(mean: FloatArray) -> FloatArray:
    return np.asarray(np.log(effect_size(mean) + 1e-9))


def _slope(
    residuals: OutOfFold, strata: list[str], squared: FloatArray, weights: FloatArray, n: int
) -> tuple[float, float, float, float]:
    """Return (slope, centre, low, high): ridge regression of log squared error on log effect size.

    Both variables are centred within the strata of each predictor, because the larger errors of combinations
    compared with singles should not count as an effect of size.
    """
    x = _log_size(residuals.prediction.mean)
    # A predicted effect of zero has no finite logarithm: such rows get the smallest non-zero predicted size.
    x = np.maximum(x, x[x > x.max() + _LOG_NOTHING].min())
    cell = np.unique([f"{f}|{s}" for f, s in zip(residuals.fold, strata, strict=True)], return_inverse=True)[
        1
    ]
    centre = float(np.average(x, weights=weights))
    if not varies(effect_size(residuals.prediction.mean), cell):
        return 0.0, centre, centre, centre
    y = np.log(squared + _SMALLEST)
    total = np.bincount(cell, weights=weights)
    dx = x - (np.bincount(cell, weights=weights * x) / total)[cell]
    dy = y - (np.bincount(cell, weights=weights * y) / total)[cell]
    # Posterior mean of the slope under a N(0, SD^2) prior: sum w x y / (sum w x^2 + var(y) / (n SD^2)), with
    # the weights summing to 1 and the variance of y standing in for the residual variance.
    prior = float(np.sum(weights * dy * dy)) / (n * _SLOPE_SD**2)
    slope = float(np.sum(weights * dx * dy)) / (float(np.sum(weights * dx * dx)) + prior)
    return slope, centre, float(x.min()), float(x.max())


def _offsets(
    values: FloatArray, strata: list[str], units: list[tuple[str, ...]], weights: FloatArray
) -> dict[str, float]:
    """Return each stratum's mean minus the overall mean, shrunk to zero by `_STRATUM_PRIOR` pseudo-units."""
    overall = float(np.average(values, weights=weights))
    out = {}
    for name in sorted(set(strata)):
        rows = np.asarray([s == name for s in strata], dtype=np.bool_)
        inside, n = row_weights(units, rows)
        out[name] = (float(inside @ values) - overall) * n / (n + _STRATUM_PRIOR)
    return out


def _level_genes(squared: FloatArray, weights: FloatArray) -> FloatArray:
    """Return squared errors [n, g] with each gene scaled so that no gene's mean is outside the 10th to 90th percentile.

    A gene that is on in one condition has a variance of almost nothing elsewhere, and one such gene would set
    the factor of all genes of its bin.
    """
    # Outlying conditions are drawn in first: they would raise all genes, and the spread over genes with them.
    rows = squared.mean(axis=1)
    drawn = (
        squared * np.divide(_winsorised(rows, weights), rows, out=np.ones_like(rows), where=rows > 0)[:, None]
    )
    mean = np.average(drawn, axis=0, weights=weights)
    held = np.clip(mean, *np.quantile(mean, [_WINSOR, 1.0 - _WINSOR]))
    return np.asarray(squared * np.divide(held, mean, out=np.ones_like(mean), where=mean > 0))


def _robust_mean(values: FloatArray, weights: FloatArray) -> float:
    """Return the weighted mean of values, winsorised at their weighted 10th and 90th percentiles."""
    return float(np.average(_winsorised(values, weights), weights=weights))


def _winsorised(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Return values [n] drawn in to their weighted 10th and 90th percentiles."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order]) / weights.sum()
    at = np.minimum(np.searchsorted(cumulative, [_WINSOR, 1.0 - _WINSOR]), len(values) - 1)
    low, high = values[order][at]
    return np.asarray(np.clip(values, low, high))
