"""Efron's local false discovery rate with an empirical null fitted by maximum likelihood.

Density: Poisson regression of histogram counts on a natural cubic spline. Null: the truncated normal that fits the
central values best (Efron 2004, 2007). Settings are those of the R package ``locfdr`` with ``nulltype = 1``.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from perturbfm_core.schema import FloatArray

BINS = 119
FREEDOM = 7
MIN_VALUES = 200


def natural_spline(x: FloatArray, freedom: int = FREEDOM) -> FloatArray:
    """Return [n, freedom + 1], a basis of natural cubic splines in `x` with knots at its quantiles, constant included."""
    u = (x - x.min()) / np.ptp(x)
    knots = np.quantile(u, np.linspace(0, 1, freedom + 1))

    # Truncated-power basis of natural splines (Hastie, Tibshirani and Friedman 2009, equations 5.4 and 5.5).
    def bend(k: int) -> FloatArray:
        last = knots[-1]
        out = np.maximum(u - knots[k], 0) ** 3 - np.maximum(u - last, 0) ** 3
        return np.asarray(out / (last - knots[k]))

    tail = bend(freedom - 1)
    basis = np.column_stack([np.ones_like(u), u, *(bend(k) - tail for k in range(freedom - 1))])
    return np.asarray(np.linalg.qr(basis)[0])


def poisson_fit(basis: FloatArray, counts: FloatArray, steps: int = 50) -> FloatArray:
    """Return fitted counts [n] of a Poisson regression with logarithmic link, by reweighted least squares.

    Parameters
    ----------
    basis
        Regressors [n, k].
    counts
        Observed counts [n].
    steps
        Largest number of iterations; they end when the linear predictor changes by less than 1e-9.
    """
    eta = np.log(counts + 0.5)
    for _ in range(steps):
        mu = np.exp(np.clip(eta, -30, 30))
        root = np.sqrt(mu)
        # Working response of iteratively reweighted least squares; the weights are mu.
        target = eta + (counts - mu) / mu
        coefficients = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        new = basis @ coefficients
        if np.abs(new - eta).max() < 1e-9:
            eta = new
            break
        eta = new
    return np.asarray(np.exp(np.clip(eta, -30, 30)))


def central_null(z: FloatArray) -> tuple[float, float, float] | None:
    """Return (mean, standard deviation, share) of the normal null fitted to the central values; None without spread."""
    from scipy.optimize import minimize

    low, middle, high = np.quantile(z, [0.25, 0.5, 0.75])
    # Half-width of the central interval, in robust standard deviations: the rule of ``locfdr``.
    width = 4.3 * np.exp(-0.26 * np.log10(len(z))) if len(z) <= 500_000 else 1.0
    spread = (high - low) / (2 * norm.ppf(0.75))
    if spread <= 0:
        return None
    a, b = middle - width * spread, middle + width * spread
    inside = z[(z >= a) & (z <= b)]
    first, second = (inside - middle).mean() / spread, np.square((inside - middle) / spread).mean()

    def cost(theta: FloatArray) -> float:
        mean, log_sd = theta
        sd = np.exp(log_sd)
        mass = norm.cdf((width - mean) / sd) - norm.cdf((-width - mean) / sd)
        # Negative mean log likelihood of a truncated normal, which depends on the first two moments only.
        return float((second - 2 * mean * first + mean**2) / (2 * sd**2) + log_sd + np.log(max(mass, 1e-300)))

    found = minimize(
        cost,
        np.zeros(2),
        method="Nelder-Mead",
        bounds=[(-width, width), (-2.0, 2.0)],
        options={"xatol": 1e-8, "fatol": 1e-12},
    ).x
    mean, sd = float(middle + spread * found[0]), float(spread * np.exp(found[1]))
    share = len(inside) / len(z) / float(norm.cdf((b - mean) / sd) - norm.cdf((a - mean) / sd))
    return mean, sd, min(share, 1.0)


def local_fdr(z: FloatArray) -> tuple[FloatArray, FloatArray, float] | None:
    """Return (positions, local fdr there, centre of the null), None where nothing can be fitted.

    Parameters
    ----------
    z
        Values [n] of mostly null observations.
    """
    if len(z) < MIN_VALUES or np.ptp(z) == 0:
        return None
    null = central_null(z)
    if null is None:
        return None
    counts, edges = np.histogram(z, bins=BINS)
    x = (edges[1:] + edges[:-1]) / 2
    density = poisson_fit(natural_spline(x), counts.astype(np.float64))
    mean, sd, share = null
    expected = norm.pdf(x, mean, sd) * (edges[1] - edges[0]) * len(z)
    return x, np.minimum(share * expected / density, 1.0), mean
