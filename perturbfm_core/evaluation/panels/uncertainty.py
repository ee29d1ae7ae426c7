"""Panel `uncertainty`: whether the predictive variance holds."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import metric
from perturbfm_core.evaluation.panel import add_panel
from perturbfm_core.schema import COVERAGE_LEVELS, FloatArray

PANEL = "uncertainty"
_VAR_FLOOR = 1e-12

add_panel(PANEL, source="PerturbFM", headline="nll")


def _register_coverage(level: float) -> None:
    z = float(ndtri(0.5 + level / 2))

    def coverage(c: Comparison) -> FloatArray:
        inside = np.abs(c.truth - c.mean) <= z * np.sqrt(c.var)
        return np.asarray(inside.mean(axis=1))

    coverage.__doc__ = (
        f"Share of genes whose observed delta lies in the central {level:.0%} Gaussian interval."
    )
    metric(
        PANEL,
        f"coverage_{level:g}",
        direction="target",
        target=level,
        bounds=(0.0, 1.0),
        version="1",
        source="PerturbFM",
        undefined="never undefined",
        needs="variance",
    )(coverage)


for _level in COVERAGE_LEVELS:
    _register_coverage(_level)


@metric(
    PANEL,
    "nll",
    direction="min",
    bounds=(None, None),
    version="1",
    source="PerturbFM",
    undefined="never undefined",
    needs="variance",
)
def nll(c: Comparison) -> FloatArray:
    """Mean over genes of the Gaussian negative log likelihood of the observed delta, in nats."""
    var = np.maximum(c.var, _VAR_FLOOR)
    return np.asarray(0.5 * (np.log(2 * np.pi * var) + (c.truth - c.mean) ** 2 / var).mean(axis=1))


@metric(
    PANEL,
    "interval_width",
    direction="min",
    bounds=(0.0, None),
    version="1",
    source="PerturbFM",
    undefined="never undefined",
    needs="variance",
)
def interval_width(c: Comparison) -> FloatArray:
    """Mean over genes of the width of the central 90 % Gaussian interval, in log1p units."""
    return np.asarray(2 * float(ndtri(0.95)) * np.sqrt(c.var).mean(axis=1))
