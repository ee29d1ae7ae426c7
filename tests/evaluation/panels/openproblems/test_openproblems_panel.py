"""Panel `openproblems`, by hand (parity is with Systema's, on the same cases)."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.openproblems import mean_of_rows, spearman
from tests.support.factories import comparison_of


def results(truth, mean):
    return {r.metric.name: r for r in evaluate(comparison_of(truth, mean), ["openproblems"]).results}


def test_rows_by_hand():
    got = results([[0.0, 3.0, 4.0]], [[0.0, 0.0, 4.0]])
    assert got["mean_rowwise_rmse"].values == pytest.approx([3**0.5])
    assert got["mean_rowwise_mae"].values == pytest.approx([1.0])
    assert got["mean_rowwise_cosine"].values == pytest.approx([0.8])
    # ranks 1 2 3 and 1.5 1.5 3
    assert got["mean_rowwise_spearman"].values == pytest.approx([0.75**0.5])


def test_perfect_is_best_and_constant_is_undefined():
    truth = np.random.default_rng(0).normal(size=(3, 7))
    for r in results(truth, truth).values():
        assert r.values == pytest.approx(np.full(3, r.metric.best), abs=1e-12)
    flat = results(truth, np.zeros((3, 7)))
    assert np.isnan(flat["mean_rowwise_pearson"].values).all()
    assert mean_of_rows(np.array([np.nan, 1.0])) == 0.5


def test_spearman_knows_a_planted_swap():
    A = np.arange(6.0)[None]
    assert spearman(A, np.exp(A)) == pytest.approx([1.0])
    assert spearman(A, A[:, [1, 0, 2, 3, 4, 5]])[0] < 1.0
