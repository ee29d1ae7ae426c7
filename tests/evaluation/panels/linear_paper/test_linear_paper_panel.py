"""Panel `linear_paper` and genetic interactions (parity is with Systema's, on the same cases)."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.evaluation.comparison import TrainSide
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.calibrated import panel as calibrated
from perturbfm_core.evaluation.panels.linear_paper import interactions, local_fdr, scores
from perturbfm_core.evaluation.panels.linear_paper import panel as linear_paper
from tests.support.factories import comparison_of, conditions_of


def results(c):
    return {r.metric.name: r.values for r in evaluate(c, ["linear_paper"]).results}


def test_genes_are_those_controls_express_most():
    assert scores.expressed(np.array([1.0, 3.0, 3.0, 0.0]), 3).tolist() == [1, 2, 0]
    rng = np.random.default_rng(0)
    truth, control = rng.normal(size=(1, 1002)), np.ones((1, 1002))
    control[0, [3, 500]] = 0.0
    mean = truth.copy()
    mean[0, [3, 500]] += 7.0
    c = comparison_of(truth, mean)
    assert np.isnan(results(c)["l2"]).all()
    with_control = comparison_of(truth, mean)
    object.__setattr__(with_control, "control", control)
    assert results(with_control)["l2"].tolist() == [0.0]
    mean[0, 4] += 3.0
    wrong = comparison_of(truth, mean)
    object.__setattr__(wrong, "control", control)
    assert results(wrong)["l2"] == pytest.approx([3.0])


def test_l2_is_a_sum_over_genes():
    assert scores.l2(np.zeros((1, 2)), np.array([[3.0, 4.0]])) == pytest.approx([5.0])


def test_local_fdr_finds_the_null_and_the_tail():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(0.1, 0.5, 9500), rng.normal(4.0, 0.5, 500)])
    x, fdr, centre = local_fdr.local_fdr(z)
    assert centre == pytest.approx(0.1, abs=0.05)
    assert local_fdr.central_null(z)[1] == pytest.approx(0.5, abs=0.05)
    assert fdr[np.abs(x - 0.1) < 0.5].min() > 0.8
    assert fdr[x > 3.0].max() < 0.01
    assert local_fdr.local_fdr(z[:50]) is None
    assert local_fdr.local_fdr(np.zeros(500)) is None
    lower, upper = interactions.thresholds(z)
    assert 1.0 < upper < 3.5
    assert lower < -0.9


def test_curve_by_hand():
    observed = np.array([5.0, 0.0, 5.0, -5.0])
    perfect = interactions.synergy_curve(observed, observed, 1.0)
    assert perfect == pytest.approx(np.ones(101))
    # one right, one wrong, one right: half at no error, all at a third
    mixed = interactions.synergy_curve(observed, np.array([3.0, 2.0, 1.0, 0.0]), 1.0)
    assert mixed[[0, 33, 34, 100]] == pytest.approx([0.5, 0.5, 1.0, 1.0])
    tied = interactions.synergy_curve(observed, np.zeros(4), 1.0)
    assert tied[[49, 50]] == pytest.approx([0.0, 1.0])
    assert interactions.synergy_curve(observed, observed, 9.0) is None


def interacting(seed=0):
    rng = np.random.default_rng(seed)
    G = 300
    singles = rng.normal(0, 0.3, size=(4, G))
    train = TrainSide(conditions_of([("c", p) for p in "ABCD"]), singles, None, np.ones(4, dtype=np.int64))
    pairs = [(0, 1), (2, 3), (0, 2)]
    truth = np.stack([singles[i] + singles[j] for i, j in pairs]) + rng.normal(0, 0.1, size=(3, G))
    truth[:, :15] += 3.0
    rows = [("c", "A+B"), ("c", "C+D"), ("c", "A+C"), ("c", "A+X"), ("c", "Y")]
    return np.vstack([truth, rng.normal(size=(2, G))]), rows, train


def test_interactions_need_both_singles():
    truth, rows, train = interacting()
    c = comparison_of(truth, truth, rows=rows, train=train)
    object.__setattr__(c, "control", np.ones_like(truth))
    got = results(c)["interaction_curve"]
    assert got[:3] == pytest.approx(np.ones(3))
    assert np.isnan(got[3:]).all()
    additive = comparison_of(
        np.array(truth),
        np.vstack([train.delta[[0, 2, 0]] + train.delta[[1, 3, 2]], truth[3:]]),
        rows=rows,
        train=train,
    )
    object.__setattr__(additive, "control", np.ones_like(truth))
    assert results(additive)["interaction_curve"][0] < 0.1


@pytest.mark.parametrize(
    ("singles", "expected"),
    [
        ([("CRISPRa", ""), ("CRISPRi", "")], 1.0),
        ([("CRISPRa", "5"), ("CRISPRa", "9")], 1.0),
        ([("CRISPRa", ""), ("CRISPRa", "9")], 1.0),
        ([("CRISPRi", "5"), ("CRISPRi", "5")], None),
        ([("CRISPRa", "9"), ("CRISPRa", "9")], None),
    ],
)
def test_the_sum_of_singles_is_of_the_same_modality_and_dose(singles, expected):
    rows = [("c", gene, *single) for gene in "AB" for single in singles]
    delta = np.array([[1.0, 1.0], [-9.0, -9.0]] * 2) / 2
    train = TrainSide(conditions_of(rows), delta, None, np.ones(4, dtype=np.int64))
    c = comparison_of([[0.0, 0.0]], [[0.0, 0.0]], rows=[("c", "A+B", "CRISPRa", "5+5")], train=train)
    found, sums = linear_paper._additive(c)
    assert sums.tolist() == ([] if expected is None else [[expected] * 2])
    assert found.tolist() == ([] if expected is None else [0])
    additive = calibrated._simple(c, train)[1][0]
    assert additive == pytest.approx(np.full(2, np.nan if expected is None else expected), nan_ok=True)


def test_order_of_conditions_does_not_matter():
    truth, rows, train = interacting()
    noise = np.random.default_rng(1).normal(size=truth.shape)
    order = [4, 2, 0, 3, 1]
    made = []
    for o in (list(range(5)), order):
        c = comparison_of(truth[o], (truth + noise)[o], rows=[rows[i] for i in o], train=train)
        object.__setattr__(c, "control", np.ones_like(truth))
        made.append(results(c))
    for name in made[0]:
        assert made[1][name] == pytest.approx(made[0][name][order], nan_ok=True), name
