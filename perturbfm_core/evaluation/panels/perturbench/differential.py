"""PerturBench's aggregations by tests against the controls: scores, pvals and logp.

V2 uses a t-test that takes the group's number of cells for the controls too, so that many controls do not make small
differences significant (scanpy's ``t-test_overestim_var``). V1 uses the rank-sum test without tie correction, or that
t-test, and raw p-values.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import ndtr, stdtr

from perturbfm_core.evaluation.panels.perturbench.aggregate import single
from perturbfm_core.evaluation.panels.perturbench.population import Moments, Population, dense
from perturbfm_core.evaluation.panels.perturbench.undefined_ranks import ranks
from perturbfm_core.schema import FloatArray, IntArray

# PerturBench's names of the tests.
Test = Literal["t-test_overestim_var", "t-test", "wilcoxon"]
TESTS: tuple[Test, ...] = ("t-test_overestim_var", "t-test", "wilcoxon")
TINY_V1 = 1e-24
TINY_V2 = 1e-37


def t_scores(
    groups: Moments,
    controls: Moments,
    covariate: IntArray,
    *,
    control_variance: bool = False,
    all_controls: bool = False,
) -> tuple[FloatArray, FloatArray]:
    """Return (t [K, G], degrees of freedom [K, G]) of each group against its controls.

    Undefined scores are 0 with NaN degrees of freedom; a score is infinite where a gene is constant on both sides at two
    values.

    Parameters
    ----------
    groups
        Moments of K groups of cells.
    controls
        Moments of the control cells of V covariate combinations.
    covariate
        int [K], covariate combination of each group.
    control_variance
        Use the pooled t with the controls' variance on both sides, instead of Welch's t with the group's number of
        cells on both sides.
    all_controls
        Count the controls with as many cells as they are (plain Welch), not with the group's number.
    """
    n = groups.n[:, None].astype(np.float64)
    m = controls.n[covariate][:, None].astype(np.float64)
    v2 = controls.var()[covariate]
    gap = groups.mean - controls.mean[covariate]
    with np.errstate(invalid="ignore", divide="ignore"):
        if control_variance:
            t = gap / np.sqrt(v2 * (1 / n + 1 / m))
            df = np.broadcast_to(n + m - 2, t.shape)
        else:
            m = m if all_controls else n
            a, b = groups.var() / n, v2 / m
            t = gap / np.sqrt(a + b)
            # Welch-Satterthwaite, by default with n cells on both sides.
            df = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
    defined = ~np.isnan(t)
    return np.where(defined, t, 0.0), np.where(defined, df, np.nan)


def t_pvals(t: FloatArray, df: FloatArray) -> FloatArray:
    """Return two-sided p-values; 1 where the score is undefined, 0 where it is infinite."""
    with np.errstate(invalid="ignore"):
        p = 2 * stdtr(df, -np.abs(t))
    return np.asarray(np.where(np.isinf(t), 0.0, np.where(np.isfinite(p), p, 1.0)))


def statistics(
    population: Population, test: Test = "t-test_overestim_var", *, control_variance: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Return (score [K, G], raw two-sided p-value [K, G]) of each group against its controls.

    A score is infinite where a gene is constant on both sides at two values, and its p-value 0.

    Parameters
    ----------
    population
        The groups.
    test
        The test, by PerturBench's name.
    control_variance
        See `t_scores`; not of the rank-sum test.
    """
    if test == "wilcoxon":
        z = rank_sum_scores(population)
        return z, 2 * ndtr(-np.abs(z))
    t, df = t_scores(
        population.moments,
        population.controls.moments,
        population.covariate,
        control_variance=control_variance,
        all_controls=test == "t-test",
    )
    return t, t_pvals(t, df)


def scores(
    population: Population, test: Test = "t-test_overestim_var", *, control_variance: bool = False
) -> FloatArray:
    """Return [K, G], V2's aggregation `scores`: in single precision, 0 where infinite.

    Parameters
    ----------
    population, test, control_variance
        See `statistics`.
    """
    t, _ = statistics(population, test, control_variance=control_variance)
    return single(np.where(np.isfinite(t), t, 0.0))


def pvals(
    population: Population, test: Test = "t-test_overestim_var", *, control_variance: bool = False
) -> FloatArray:
    """Return [K, G], V2's aggregation `pvals`: raw two-sided p-values of `scores`.

    Parameters
    ----------
    population, test, control_variance
        See `statistics`.
    """
    t, p = statistics(population, test, control_variance=control_variance)
    return np.where(np.isfinite(t), p, 1.0)


def adjusted(p: FloatArray) -> FloatArray:
    """Return Benjamini-Hochberg adjusted p-values of each row [K, G]."""
    G = p.shape[1]
    order = np.argsort(p, axis=1)
    ordered = np.take_along_axis(p, order, axis=1) * (G / np.arange(1, G + 1))
    ordered = np.minimum.accumulate(ordered[:, ::-1], axis=1)[:, ::-1]
    out = np.empty_like(p)
    np.put_along_axis(out, order, np.minimum(ordered, 1.0), axis=1)
    return out


def signed_log(score: FloatArray, p: FloatArray, tiny: float) -> FloatArray:
    """Return the sign of the score times -ln(p + tiny).

    Parameters
    ----------
    score
        Test statistics [K, G].
    p
        p-values [K, G].
    tiny
        Added to p, so that the logarithm is finite: `TINY_V1` or `TINY_V2`.
    """
    return np.asarray(np.sign(score) * -np.log(p + tiny))


def logp(
    population: Population, test: Test = "t-test_overestim_var", *, control_variance: bool = False
) -> FloatArray:
    """Return [K, G], V2's aggregation `logp`: signed -ln of the adjusted p-value.

    Parameters
    ----------
    population, test, control_variance
        See `statistics`.
    """
    t, p = statistics(population, test, control_variance=control_variance)
    # An infinite score is dropped after the adjustment only: its p-value of 0 counts among the others'.
    known, q = np.isfinite(t), adjusted(p)
    return signed_log(np.where(known, t, 0.0), np.where(known, q, 1.0), TINY_V2)


def logp_v1(population: Population, test: Test = "wilcoxon") -> FloatArray:
    """Return [K, G], V1's aggregation `logp`: signed -ln of the raw p-value."""
    return signed_log(*statistics(population, test), TINY_V1)


def rank_sum_scores(population: Population) -> FloatArray:
    """Return [K, G], the standardised rank sum of each group among its controls, without tie correction.

    Undefined values rank above all others, as in PerturBench (see `undefined_ranks`).
    """
    out = np.empty_like(population.moments.mean)
    reference = [dense(population.controls.block(v)) for v in range(population.controls.n)]
    for k, v in enumerate(population.covariate):
        X = dense(population.block(k))
        n, m = len(X), len(reference[v])
        both = np.concatenate([X, reference[v]])
        total = ranks(both, n)[:n].sum(axis=0)
        out[k] = (total - n * (n + m + 1) / 2) / np.sqrt(n * m * (n + m + 1) / 12)
    return np.nan_to_num(out)
