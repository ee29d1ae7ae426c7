"""Panel `systema` and its functions, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.evaluation.comparison import TrainSide
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.systema import baselines, scores
from tests.support.factories import comparison_of, conditions_of


def values(c, name):
    return next(r.values for r in evaluate(c, ["systema"]).results if r.metric.name == name)


def made(seed=0, C=6, G=40, noise=0.5, **fields):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(C, G))
    mean = truth + noise * rng.normal(size=(C, G))
    fields = {"control": np.tile(rng.random(G), (C, 1)), "train_mean": rng.normal(size=G), **fields}
    control = fields.pop("control")
    c = comparison_of(truth, mean, **fields)
    object.__setattr__(c, "control", control)
    return c


def test_centroid_accuracy_counts_ties_against():
    truth = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
    predicted = np.array([[1.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    got = scores.centroid_accuracy(predicted, truth, truth, np.eye(3, dtype=bool))
    # the first is as far from its own as from the second; the third is farther from its own than from both
    assert got == pytest.approx([0.5, 1.0, 0.0])
    alone = scores.centroid_accuracy(predicted[:1], truth[:1], truth[:1], np.eye(1, dtype=bool))
    assert np.isnan(alone).all()


def test_jaccard_by_hand():
    truth = np.array([[5.0, 4.0, 0.1, 0.0, 0.0]])
    assert scores.jaccard(truth, np.array([[9.0, 0.0, 1.0, 0.0, 0.0]]), 2) == pytest.approx([1 / 3])
    assert np.isnan(scores.jaccard(truth, np.zeros((1, 5)), 2)).all()
    assert np.isnan(scores.jaccard(truth, truth, 5)).all()


def test_means_of_train_centroids():
    centroids = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert baselines.perturbed_reference(centroids) == pytest.approx([4 / 3, 4 / 3])
    spare = baselines.nonctl_mean(centroids, np.array([1, 1, 2]))
    assert spare == pytest.approx([1.0, 2.0])
    got = baselines.matching_mean(["A+B", "A+X", "B"], ["A", "A", "B"], centroids, spare)
    assert got == pytest.approx(np.array([[1.0, 2.0], [1.5, 1.0], [0.0, 4.0]]))


def test_systematic_variation_is_one_where_all_change_alike():
    delta = np.outer([1.0, 2.0, 3.0], [1.0, -1.0])
    assert scores.systematic_variation(delta, delta.mean(axis=0)) == pytest.approx([1.0, 1.0, 1.0])
    assert scores.pairwise_cosine(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])) == pytest.approx(
        [0.0, 0.5**0.5, 0.5**0.5]
    )


def test_reference_is_the_train_mean_expression_of_the_context():
    train = TrainSide(
        conditions_of([("c", "T0"), ("c", "T1"), ("other", "T2")]),
        np.array([[1.0, 0, 0], [0, 1.0, 0], [9.0, 9, 9]]),
        np.array([[2.0, 1, 1], [1, 2.0, 1], [90.0, 90, 90]]),
        np.ones(3, dtype=np.int64),
    )
    truth = np.array([[1.0, 2.0, 0.5]])
    mean = np.array([[0.5, 2.0, 0.1]])
    c = comparison_of(truth, mean, train=train)
    object.__setattr__(c, "control", np.ones((1, 3)))
    reference = np.array([1.5, 1.5, 1.0]) - 1.0
    expected = np.corrcoef(truth[0] - reference, mean[0] - reference)[0, 1]
    assert values(c, "corr_all_allpert") == pytest.approx([expected])
    again = comparison_of(truth, np.broadcast_to(reference, (1, 3)), train=train)
    object.__setattr__(again, "control", np.ones((1, 3)))
    assert np.isnan(values(again, "corr_all_allpert")).all()


def test_perfect_prediction_is_best_and_order_does_not_matter():
    c = made()
    perfect = made(noise=0.0)
    for result in evaluate(perfect, ["systema"]).results:
        if result.metric.best is not None:
            assert result.values == pytest.approx(np.full(6, result.metric.best), abs=1e-12), (
                result.metric.name
            )
    order = [3, 0, 5, 1, 4, 2]
    turned = comparison_of(
        c.observed[order], c.predicted[order], train_mean=c.train_mean, rows=[("c", f"P{i}") for i in order]
    )
    object.__setattr__(turned, "control", c.control[order])
    for a, b in zip(evaluate(c, ["systema"]).results, evaluate(turned, ["systema"]).results, strict=True):
        assert b.values == pytest.approx(a.values[order], nan_ok=True), a.metric.name


def test_delta_only_data_has_no_centroids_and_a_planted_swap_is_seen():
    c = made()
    object.__setattr__(c, "control", None)
    assert np.isnan(values(c, "centroid_accuracy")).all()
    good, swapped = made(noise=0.0), made(noise=0.0)
    object.__setattr__(swapped, "predicted", np.roll(good.predicted, 1, axis=0))
    assert values(good, "centroid_accuracy").min() == 1.0
    assert values(swapped, "centroid_accuracy").max() < 1.0
    assert values(swapped, "corr_all_allpert").mean() < values(good, "corr_all_allpert").mean()
