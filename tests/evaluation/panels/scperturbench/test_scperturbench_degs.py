import numpy as np
import pytest
from scipy import stats

from perturbfm_core.evaluation.panels.scperturbench import degs


@pytest.fixture
def sides(rng):
    X = np.log1p(rng.poisson(2.0, size=(40, 30))).astype(np.float32)
    Y = np.log1p(rng.poisson(3.0, size=(60, 30))).astype(np.float32)
    X[:, 5] = Y[:, 5] = 0.0
    return X, Y


def test_moments_by_hand():
    m = degs.moments(np.asarray([[1.0, 0.0], [3.0, 0.0]]))
    np.testing.assert_array_equal(m.mean, [2.0, 0.0])
    np.testing.assert_array_equal(m.var, [2.0, 0.0])
    assert np.isnan(degs.moments(np.ones((1, 2))).var).all()
    assert np.isnan(degs.moments(np.ones((0, 2))).mean).all()


def test_moments_do_not_depend_on_blocks(rng):
    X = rng.random((5000, 3)).astype(np.float32)
    m = degs.moments(X)
    np.testing.assert_allclose(m.mean, X.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(m.var, X.astype(np.float64).var(axis=0, ddof=1), rtol=1e-5)


def test_scores_and_p_values_are_welchs(sides):
    X, Y = (degs.moments(x) for x in sides)
    keep = np.arange(30) != 5
    expected = stats.ttest_ind(*(x.astype(np.float64)[:, keep] for x in sides), equal_var=False)
    np.testing.assert_allclose(degs.welch_scores(X, Y)[keep], expected.statistic, rtol=1e-5)
    p = np.insert(expected.pvalue, 5, 1.0)
    np.testing.assert_allclose(degs.welch_pvalues(X, Y), stats.false_discovery_control(p), rtol=1e-4)


def test_a_gene_without_variance_scores_zero_and_comes_last(sides):
    X, Y = (degs.moments(x) for x in sides)
    scores = degs.welch_scores(X, Y)
    assert scores[5] == 0.0
    assert degs.deg_order(scores)[-1] == 5


def test_benjamini_hochberg_by_hand():
    np.testing.assert_allclose(
        degs.benjamini_hochberg(np.asarray([0.5, 0.01, 0.03, 0.02])), [0.5, 0.04, 0.04, 0.04]
    )


def test_order_is_by_size_and_ties_keep_the_order_of_genes():
    assert degs.deg_order(np.asarray([1.0, -3.0, 3.0, 2.0])).tolist() == [1, 2, 3, 0]


def test_fold_change_is_of_back_transformed_means():
    up = degs.Moments(3, np.log1p([3.0, 0.0]), np.ones(2))
    base = degs.Moments(3, np.log1p([1.0, 0.0]), np.ones(2))
    np.testing.assert_allclose(degs.fold_changes(up, base), [3.0, 1.0], rtol=1e-8)


def test_common_degs_by_hand():
    true, predicted = np.asarray([4, 2, 0, 1, 3]), np.asarray([0, 4, 3, 2, 1])
    assert degs.common_degs(true, predicted, 2) == 0.5
    assert degs.common_degs(true, predicted, 3) == pytest.approx(2 / 3)
    # The denominator stays, even with fewer genes.
    assert degs.common_degs(true, predicted, 10) == 0.5
