"""PerturBench's aggregations of cells to one vector per group: average, scaled, logfc and var.

Version V2 is commit cafe4c9 (2025-12-29), V1 is d357dfa (2024-08-19). V1 keeps means in single precision and
scales over the whole data set; V2 scales within each covariate combination.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from perturbfm_core.evaluation.panels.perturbench.population import Moments, Population, clipped_mean
from perturbfm_core.schema import FloatArray, IntArray

Version = Literal["V1", "V2"]

PSEUDOCOUNT = 0.1
MAX_SCALED = 10.0
_ROUNDING = 1e-12


def single(values: FloatArray) -> FloatArray:
    """Return float64 values rounded to single precision, in which PerturBench stores them."""
    return values.astype(np.float32).astype(np.float64)


def average(mean: FloatArray, version: Version = "V2") -> FloatArray:
    """Return [K, G], the mean of log1p expression; V1 in single precision."""
    return single(mean) if version == "V1" else mean


def logfc(mean: FloatArray, control: FloatArray, pseudocount: float = PSEUDOCOUNT) -> FloatArray:
    """Return [K, G], log2 of mean log1p expression over that of the controls, both plus a pseudocount.

    Parameters
    ----------
    mean, control
        [K, G], mean log1p expression of each group and of the controls of its covariates. PerturBench takes the
        ratio of means of log values; give means of expm1 values for its option ``exp``.
    pseudocount
        Added to both means. What is undefined is 0.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        out = np.log2(mean + pseudocount) - np.log2(control + pseudocount)
    # A group equal to its controls has a change of exactly 0, whatever the order of its cells.
    return _defined(np.where(np.abs(out) > _ROUNDING, out, 0.0))


def dispersion(moments: Moments, *, adjust: bool = True) -> FloatArray:
    """Return [K, G], standard deviation over mean (`adjust`) or the variance, ddof = 0; 0/0 gives 0.

    A spread around a mean of 0 is infinite.

    Parameters
    ----------
    moments
        Moments of the groups.
    adjust
        Whether to divide by the mean.
    """
    if not adjust:
        return moments.spread
    with np.errstate(invalid="ignore", divide="ignore"):
        return _defined(np.sqrt(moments.spread) / moments.mean)


def _defined(values: FloatArray) -> FloatArray:
    """Return values with 0 for what is undefined."""
    return np.where(np.isnan(values), 0.0, values)


def scaling(population: Population, version: Version = "V2") -> tuple[FloatArray, FloatArray, IntArray]:
    """Return (mean [S, G], standard deviation [S, G] with ddof = 1, 1 for constant genes, scope [K]).

    The statistics are those of all cells of a scope, controls included: of each covariate combination in V2,
    of the whole data set in V1.
    """
    groups, controls = population.moments, population.controls.moments
    V = population.controls.n
    joint = Moments(
        np.concatenate([groups.n, controls.n]),
        np.concatenate([groups.mean, controls.mean]),
        np.concatenate([groups.spread, controls.spread]),
    )
    codes = np.concatenate([population.covariate, np.arange(V)])
    scope = population.covariate
    if version == "V1":
        codes, scope, V = np.zeros_like(codes), np.zeros_like(scope), 1
    pooled = joint.pooled(codes, V)
    sd = np.sqrt(np.nan_to_num(pooled.var(1)))
    return pooled.mean, np.where(sd > 0, sd, 1.0), scope


def scaled(population: Population, version: Version = "V2") -> FloatArray:
    """Return [K, G], the mean of values standardised gene by gene and clipped to [-10, 10] (see `scaling`)."""
    mu, sd, scope = scaling(population, version)
    out = np.empty_like(population.moments.mean)
    for k, s in enumerate(scope):
        inside = clipped_mean(population.block(k), mu[s] - MAX_SCALED * sd[s], mu[s] + MAX_SCALED * sd[s])
        out[k] = (inside - mu[s]) / sd[s]
    return out
