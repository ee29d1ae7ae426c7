"""Mean distances from products in single precision, against distances in double precision."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from perturbfm_core.evaluation import single_distances
from perturbfm_core.evaluation.panels.scperturbench import sides
from perturbfm_core.evaluation.panels.scperturbench.cellwise import edistance
from perturbfm_core.evaluation.single_distances import mean_between, mean_within, squared_norms
from tests.benchmarks.peers.panel_case import comparison_of


def clouds(kind):
    """Return two groups of float32 cells."""
    rng = np.random.default_rng(1)
    X, Y = (rng.gamma(2.0, 1.0, (n, 70)).astype(np.float32) for n in (41, 67))
    if kind == "near":
        X[1:] = X[0] * (1 + 1e-6 * rng.standard_normal((40, 70)))
    elif kind == "copies":
        Y[:] = X[3]
    elif kind == "outlier":
        Y[0] *= 300
    return X, Y


@pytest.mark.parametrize("block", [1, 200, 4_000_000])
@pytest.mark.parametrize("kind", ["spread", "near", "copies", "outlier"])
def test_means_are_those_of_double_precision(monkeypatch, kind, block):
    monkeypatch.setattr(single_distances, "_BLOCK_PAIRS", block)
    X, Y = clouds(kind)
    center = X.mean(axis=0)
    x, y = X - center, Y - center
    x2, y2 = squared_norms(x), squared_norms(y)
    scale = cdist(X, Y).mean()
    assert mean_within(x, x2) == pytest.approx(cdist(X.astype(float), X).mean(), rel=2e-6, abs=2e-7 * scale)
    assert mean_within(y, y2) == pytest.approx(cdist(Y.astype(float), Y).mean(), rel=2e-6, abs=2e-7 * scale)
    assert mean_between(x, x2, y, y2) == pytest.approx(cdist(X.astype(float), Y).mean(), rel=2e-6)


@pytest.mark.parametrize("effect", [0.0, 0.05, 1.0])
def test_large_groups_have_the_edistance_of_double_precision(monkeypatch, effect):
    rng = np.random.default_rng(2)
    rate = rng.gamma(0.5, 1.0, 400)
    shift = np.exp(effect * rng.standard_normal(400))
    control, true, predicted = (
        np.log1p(rng.poisson(rate * by, (n, 400))).astype(np.float32)
        for n, by in ((80, 1.0), (60, shift), (60, np.sqrt(shift)))
    )
    X, Y = sp.csr_array(np.concatenate([control, true])), sp.csr_array(predicted)
    c = comparison_of(X, [np.arange(80, 140)], np.arange(80), Y, [np.arange(60)])
    found = {}
    for limit in (1e12, 0):
        monkeypatch.setattr(sides, "_DOUBLE_WORK", limit)
        found[limit] = sides.pair(c.cells, 0, sides.TrueSides(c.genes))
    expected = edistance(
        *(cdist(a, b).mean() for a, b in ((true, predicted), (true, true), (predicted, predicted)))
    )
    assert found[1e12].edistance[400] == pytest.approx(expected, rel=1e-9)
    assert found[0].edistance[400] == pytest.approx(expected, rel=1e-4)
    # Small subsets, on which the transport cost is computed, stay in double precision.
    assert found[0].wasserstein == found[1e12].wasserstein
    assert {k: v for k, v in found[0].edistance.items() if k <= 100} == {
        k: v for k, v in found[1e12].edistance.items() if k <= 100
    }
