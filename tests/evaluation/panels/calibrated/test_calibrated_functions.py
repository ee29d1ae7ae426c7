"""Weights, scores and calibration, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from perturbfm_core.evaluation.panels.calibrated import calibration, expression
from perturbfm_core.evaluation.panels.calibrated.scores import (
    KINDS,
    Sides,
    all_scores,
    inverse_rank,
    mean_error,
    r2,
)


def moments(groups):
    return (
        np.stack([g.mean(axis=0) for g in groups]),
        np.stack([np.square(g - g.mean(axis=0)).sum(axis=0) for g in groups]),
        np.array([len(g) for g in groups]),
    )


def test_contrast_is_welch_with_an_overestimated_rest(rng):
    groups = [rng.normal(i, 1 + i, size=(n, 5)) for i, n in enumerate((4, 9, 6, 3))]
    got = expression.against_rest(*moments(groups))
    assert got.tested.tolist() == [True, True, True, False]
    assert np.isnan(got.t[3]).all()
    assert np.isnan(got.p[3]).all()
    for i in range(3):
        rest = np.concatenate([groups[j] for j in range(3) if j != i])
        own = groups[i]
        t, p = stats.ttest_ind_from_stats(
            own.mean(0),
            own.std(0, ddof=1),
            len(own),
            rest.mean(0),
            rest.std(0, ddof=1),
            len(own),
            equal_var=False,
        )
        assert got.t[i] == pytest.approx(t)
        assert got.p[i] == pytest.approx(p)


def test_genes_without_variation_are_no_evidence():
    groups = [np.zeros((5, 2)), np.zeros((5, 2))]
    groups[0][:, 1] = [1, 2, 3, 4, 5]
    got = expression.against_rest(*moments(groups))
    assert got.t[:, 0].tolist() == [0.0, 0.0]
    assert got.p[:, 0].tolist() == [1.0, 1.0]
    alone = expression.against_rest(*moments(groups[:1]))
    assert not alone.tested.any()
    assert (expression.gene_weights(alone) == 0).all()
    assert not expression.significant(alone).any()


def test_a_gene_that_is_equal_in_all_cells_but_for_rounding_is_no_evidence(rng):
    # The mean of equal values of 0.7 is not 0.7.
    groups = [np.column_stack([np.full(n, 0.7), rng.normal(i, 1, n)]) for i, n in enumerate((5, 11, 8))]
    mean, squares, n = moments(groups)
    assert np.ptp(mean[:, 0]) > 0
    assert (squares[:, 0] > 0).any()
    got = expression.against_rest(mean, squares, n)
    assert (got.t[:, 0] == 0).all()
    assert (got.p[:, 0] == 1).all()
    assert (expression.gene_weights(got)[:, 0] == 0).all()


def test_a_gene_that_varies_on_neither_side_but_differs_is_certain(rng):
    groups = [
        np.column_stack([np.full(6, a), np.full(6, 0.7), rng.normal(i, 1, (6, 3))])
        for i, a in enumerate((1.2, 0, 0))
    ]
    got = expression.against_rest(*moments(groups))
    assert got.t[0, 0] == np.inf
    assert got.p[0, :2].tolist() == [0.0, 1.0]
    # The other two conditions differ in it from a rest that varies.
    assert np.isfinite(got.t[1:]).all()
    assert expression.significant(got)[0, 0]
    weights = expression.gene_weights(got)
    assert weights[0, 0] == weights[0].max() == 1.0
    assert (weights[0, 2:] == 1.0).any()
    # |t| is scaled by its infinite maximum there, which leaves nothing.
    literal = expression.gene_weights(got, as_peer=True)
    assert (literal[0] == 0).all()
    np.testing.assert_array_equal(literal[1:], weights[1:])


def test_weights_are_squared_min_max():
    t = np.array([[-3.0, 1.0, 2.0]])
    contrast = expression.Contrast(t, np.ones_like(t), np.ones(1, dtype=bool))
    assert expression.gene_weights(contrast) == pytest.approx(np.array([[1.0, 0.0, 0.25]]))


def test_adjusted_is_benjamini_hochberg(rng):
    p = rng.random((3, 20)) ** 3
    assert expression.adjusted(p) == pytest.approx(
        np.stack([stats.false_discovery_control(row) for row in p])
    )


def test_r2_of_nearly_one_gene_is_as_in_scikit_learn():
    y, p, w = np.array([[3.0, 1.0, 2.0]]), np.array([[2.0, 1.0, 1.0]]), np.array([[1.0, 1e-15, 1e-15]])
    total = 1e-15 * (2**2 + 1**2)
    assert r2(y, p, w, finite=True) == pytest.approx([1 - 1 / total])
    assert r2(y, p, np.array([[1.0, 0.0, 0.0]]), finite=True).tolist() == [0.0]
    assert r2(y, y, np.array([[1.0, 0.0, 0.0]]), finite=True).tolist() == [1.0]
    assert np.isnan(r2(y, p, w)).all()


def test_scores_by_hand():
    y, p = np.array([[0.0, 2.0]]), np.array([[1.0, 2.0]])
    assert mean_error(y, p) == pytest.approx([0.5])
    assert mean_error(y, p, np.array([[3.0, 1.0]])) == pytest.approx([0.75])
    assert np.isnan(mean_error(y, p, np.zeros((1, 2)))).all()
    assert r2(y, p) == pytest.approx([0.5])
    # weighted mean 0.5, total 3 * 0.25 + 1 * 2.25, residual 3
    assert r2(y, p, np.array([[3.0, 1.0]])) == pytest.approx([0.0])
    assert np.isnan(r2(np.ones((1, 2)), p)).all()
    # As scikit-learn has it: 1 for a prediction that equals a constant truth, else 0.
    flat = np.array([[2.0, 2.0], [2.0, 2.0], [0.0, 0.0]])
    assert list(r2(flat, flat + np.array([[0, 0], [0, 1], [0, 0]]), finite=True)) == [1, 0, 1]
    assert np.isnan(r2(flat, flat, np.zeros((3, 2)), finite=True)).all()
    assert r2(y, p, finite=True) == r2(y, p)


def test_inverse_rank_is_strict_and_within_contexts():
    truth = np.array([[0.0], [2.0], [5.0], [1.0]])
    predicted = np.array([[1.0], [2.0], [0.0], [1.0]])
    got = inverse_rank(truth, predicted, np.array(["a", "a", "a", "b"]))
    assert got[:3] == pytest.approx([0.5, 1.0, 0.0])
    assert np.isnan(got[3])


def test_train_mean_is_undefined_not_zero_around_the_perturbed_mean(rng):
    truth, m = rng.normal(size=(4, 30)), rng.normal(size=30)
    sides = Sides(truth, np.zeros_like(truth), np.broadcast_to(m, truth.shape), np.zeros(4))
    got = all_scores(sides, np.tile(m.astype(np.float32), (4, 1)).astype(np.float64))
    assert np.isnan(got["pearson_deltapert"]).all()
    assert np.isfinite(got["r2_deltapert"]).all()
    assert np.isnan(got["wmse"]).all()
    perfect = all_scores(sides, truth.copy())
    assert perfect["mse"].tolist() == [0.0] * 4
    assert perfect["nir"].tolist() == [1.0] * 4
    assert perfect["pearson_deltapert"] == pytest.approx(np.ones(4))


def test_halves_do_not_depend_on_row_order(rng):
    cells = [row.tobytes() for row in rng.normal(size=(11, 3)).astype(np.float32)]
    half = calibration.first_half(cells)
    assert half.sum() == 6
    order = rng.permutation(11)
    assert calibration.first_half([cells[i] for i in order]).tolist() == half[order].tolist()
    assert calibration.first_half(cells, seed=1).tolist() != half.tolist()


def test_interpolated_duplicate():
    got = calibration.interpolated(np.full((1, 3), 4.0), np.zeros(3), np.array([[0.0, 0.25, np.nan]]))
    assert got.tolist() == [[4.0, 3.0, 0.0]]


def test_dynamic_range_and_calibrated_score():
    one = np.ones(1)
    assert calibration.dynamic_range("mse", 4 * one, one) == pytest.approx([0.75], abs=1e-5)
    assert calibration.dynamic_range("pearson_deltactrl", 0.2 * one, 0.6 * one) == pytest.approx(
        [0.5], abs=1e-5
    )
    above, below = calibration.calibrated_parts("mse", 5 * one, 4 * one, one)
    assert (above / below) == pytest.approx([-1 / 3])
    above, below = calibration.calibrated_parts("nir", one, 0.5 * one, 0.75 * one)
    assert (above / below) == pytest.approx([2.0])
    for narrow in (0.95 * 4, 4.0, 5.0):
        above, below = calibration.calibrated_parts("mse", one, 4 * one, narrow * one)
        assert np.isnan([above, below]).all()


def test_saturation_takes_the_best_baseline():
    control, positive = np.array([4.0, 4.0, 4.0]), np.array([1.0, 1.0, 3.9])
    baselines = np.array([[2.5, 9.0, 1.0], [np.nan, 9.0, 1.0]])
    got = calibration.saturation(control, baselines, positive)
    assert got[:2] == pytest.approx([0.5, 0.0])
    assert calibration.saturation_stratum(got) == ["saturated", "resistant", ""]


def test_collapse_of_a_constant_prediction(rng):
    truth, contexts = rng.normal(size=(5, 8)), np.array(["a"] * 4 + ["b"])
    variance, rank = calibration.collapse(truth, np.tile(truth[0], (5, 1)), contexts)
    assert variance[:4] == pytest.approx(np.zeros(4), abs=1e-12)
    assert rank[0] == pytest.approx(1 / calibration.effective_rank(truth[:4]))
    assert np.isnan([variance[4], rank[4]]).all()
    assert calibration.effective_rank(np.eye(3)) == pytest.approx(3.0)
    assert calibration.effective_rank(np.zeros((2, 2))) == 0.0


def test_spearman_brown():
    assert calibration.duplicated(np.array([0.5, -0.2, 0.0])) == pytest.approx([2 / 3, 0.0, 0.0])


def test_every_kind_is_scored(rng):
    truth = rng.normal(size=(3, 6))
    sides = Sides(truth, np.zeros_like(truth), np.zeros_like(truth), np.zeros(3))
    assert set(all_scores(sides, truth)) == set(KINDS)
