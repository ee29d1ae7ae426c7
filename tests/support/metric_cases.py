"""Every registered metric on one small screen, for tests of panels."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from perturbfm_core.data.prediction import Intervals
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.schema import COVERAGE_LEVELS
from tests.support.factories import comparison_of, prediction_of, simulated, split_one

# Panels of this project; those of peers have quirks of their own, and tests of their own.
OWN = ("delta", "uncertainty")


@lru_cache(maxsize=1)
def world() -> Comparison:
    """Return a comparison of a random prediction, with cells and train side, in two contexts."""
    ds = simulated(n_obs=900, n_genes=40, n_contexts=4, n_perts=5, n_combos=3, n_batches=2)
    split = split_one(ds, "context_ood", {"holdout": ["C0", "C1"]})
    truth = observed(ds, split)
    rng = np.random.default_rng(0)
    near = truth.observed + rng.normal(size=truth.observed.shape)
    given = prediction_of(ds, split, dict(zip(truth.conditions.index, near, strict=True)))
    var = rng.uniform(0.5, 2, given.var.shape).astype(np.float32)
    # Intervals of a Gaussian, as calibration would give them to one.
    z = ndtri(0.5 + np.asarray(COVERAGE_LEVELS) / 2)
    factor = np.broadcast_to(z[:, None, None], (len(z), len(given.mean), 1)).astype(np.float32)
    intervals = Intervals(np.asarray(COVERAGE_LEVELS), factor, np.zeros(ds.n_genes, dtype=np.int16))
    return compare(ds, split, replace(given, var=var, intervals=intervals))


TWO = comparison_of(np.eye(2), np.eye(2))
