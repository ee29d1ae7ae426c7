"""The posterior of the set process: similarity, what train leaves unknown, and held-out novelty."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.models.perturbfm.core.posterior import SetProcessPosterior
from perturbfm_core.splits.view import Query, TrainView, train_view
from tests.support.factories import conditions_of, simulated, split_all


@pytest.fixture(scope="module")
def fitted() -> tuple[TrainView, SetProcess]:
    ds = simulated(n_obs=900, n_genes=30, n_contexts=2, n_perts=8, n_combos=10)
    view = train_view(ds, split_all(ds, "combo_ood", {}, folds=5)[0])
    return view, SetProcess().choose(view).fit(view)


def pairs(view: TrainView) -> Query:
    table = conditions_of(
        [("C0", "G00+G03", "CRISPRa"), ("C1", "G02+G05+G07", "CRISPRa"), ("C0", "none", "CRISPRa")]
    )
    return Query(table, view.genes, view.control[:3])


def test_the_posterior_variance_is_that_of_the_prediction(fitted):
    view, process = fitted
    left = SetProcessPosterior(process).posterior(pairs(view))
    _, var = process.predict(pairs(view))
    level = np.searchsorted(left.noise, process.lambdas)
    expected = np.maximum(left.variance, 1e-6)[level].T * process._scale
    assert var == pytest.approx(expected, rel=1e-4)
    assert left.weights.sum() == pytest.approx(1.0)


def test_the_posterior_columns_are_the_covariance_left_after_observing_train(fitted):
    view, process = fitted
    query = pairs(view)
    left = SetProcessPosterior(process).posterior(query)
    K = process.similarity.blocks()(process.kernel)
    C = process.similarity.blocks(query)(process.kernel)
    Q = process.similarity.blocks(query, query)(process.kernel)
    assert np.diag(Q) == pytest.approx(process.similarity.diagonal(query, process.kernel))
    for at, noise in enumerate(left.noise):
        full = Q - C @ np.linalg.solve(K + noise * np.diag(process.noise), C.T)
        got = np.stack([left.column(i)[at] for i in range(3)])
        assert got == pytest.approx(full, abs=1e-5)
        assert np.diag(got) == pytest.approx(left.variance[at], abs=1e-5)


def test_similarity_is_one_with_oneself_and_at_most_one(fitted):
    view, process = fitted
    alike = SetProcessPosterior(process).similarity(view.query())
    assert alike.max() <= 1 + 1e-9
    assert np.diag(alike) == pytest.approx(1.0)


def test_held_out_conditions_are_seen_as_their_fold_sees_them(fitted):
    view, process = fitted
    alike = SetProcessPosterior(process).out_of_fold(view)
    assert len(alike) == sum(held.sum() for _, held in view.inner)
    # A held-out condition has itself among train later, not then.
    assert alike.max() < 1 - 1e-6
