import dataclasses

import numpy as np
import pytest

from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.metric import METRICS, panel_metrics
from perturbfm_core.evaluation.panel import PANELS, evaluate
from perturbfm_core.evaluation.panels.perturbench.rank import ranks
from tests.support.factories import comparison_of, prediction_of, simulated, split_one

PANEL = "perturbench"
HEADLINE = [
    "rmse_average",
    "rmse_rank_average",
    "cosine_logfc",
    "cosine_rank_logfc",
    "cosine_pca_average",
    "cosine_rank_pca_average",
    "r2_score_scores",
    "top_k_recall_scores",
    "mmd_pca",
    "mmd_rank_pca",
]
OF_MEANS = [m for m in panel_metrics(PANEL) if m.needs == "conditions"]


@pytest.fixture(scope="module")
def screen():
    ds = simulated(name="s", n_obs=1200, n_genes=60, n_contexts=2, n_perts=8, n_combos=0)
    split = split_one(ds, "context_ood", {"holdout": ["C1"]})
    return ds, split, observed(ds, split)


def predicted(screen, mean):
    ds, split, truth = screen
    by_key = dict(zip(truth.conditions.index, mean, strict=True))
    return compare(ds, split, prediction_of(ds, split, by_key, space="log1p"), truth)


@pytest.fixture(scope="module")
def good(screen):
    return predicted(
        screen, 0.8 * screen[2].observed + np.random.default_rng(0).normal(0, 0.02, screen[2].observed.shape)
    )


def value(comparison, name):
    return METRICS.get(f"{PANEL}.{name}").function(comparison)


def controlled(truth, mean, control=None, **fields):
    made = comparison_of(truth, mean, **fields)
    filled = np.ones_like(made.observed) if control is None else np.asarray(control, dtype=np.float64)
    return dataclasses.replace(made, control=filled)


def test_headline_pairs_come_first():
    assert [m.name for m in panel_metrics(PANEL)][: len(HEADLINE)] == HEADLINE
    assert PANELS.get(PANEL).headline in HEADLINE


def test_aggregations_and_metrics_are_all_there():
    names = {m.name for m in panel_metrics(PANEL)}
    for aggregation in ("average", "scaled", "logfc", "var", "logp", "scores", "pvals", "pca_average"):
        for metric in ("pearson", "r2_score", "cosine", "mse", "rmse", "mae", "top_k_recall"):
            assert f"{metric}_{aggregation}" in names
        assert {f"rmse_rank_{aggregation}", f"cosine_rank_{aggregation}"} <= names
    assert {"mmd_none", "energy_none"} <= names


def test_versions_and_sources():
    for item in panel_metrics(PANEL):
        own = item.name in ("variance_ratio", "diversity_ratio", "spearman_delta")
        assert item.source.startswith("PerturbFM" if own else "PerturBench")
        assert item.version == (
            "1" if own else "V1" if item.name.endswith("_v1") or "energy" in item.name else "V2"
        )


def test_everything_is_finite_and_within_bounds(good):
    for result in evaluate(good, [PANEL]).results:
        low, high = result.metric.bounds
        assert np.isfinite(result.values).all(), result.metric.name
        assert low is None or (result.values >= low - 1e-9).all(), result.metric.name
        assert high is None or (result.values <= high + 1e-9).all(), result.metric.name


@pytest.mark.parametrize("item", OF_MEANS, ids=lambda m: m.name)
def test_a_perfect_prediction_of_means_is_best(screen, item):
    found = item.function(predicted(screen, screen[2].observed))
    np.testing.assert_allclose(found, item.best, atol=1e-5)


@pytest.mark.parametrize("item", OF_MEANS, ids=lambda m: m.name)
def test_the_order_of_conditions_does_not_matter(rng, item):
    rows = [("a", f"P{i}") for i in range(4)] + [("b", f"P{i}") for i in range(3)]
    truth, mean, control = (rng.normal(size=(7, 60)) for _ in range(3))
    control = np.abs(control) + 5
    order = rng.permutation(7)
    one = item.function(controlled(truth, mean, control, rows=rows))
    two = item.function(controlled(truth[order], mean[order], control[order], rows=[rows[i] for i in order]))
    np.testing.assert_allclose(one[order], two, rtol=1e-9)


def test_average_and_logfc_by_hand():
    c = controlled([[0.0, 0.9], [0.9, 0.0]], [[0.0, 0.9], [0.0, 0.9]], [[0.1, 0.1], [0.1, 0.1]])
    np.testing.assert_allclose(value(c, "rmse_average"), [0.0, 0.9], atol=1e-12)
    assert value(c, "cosine_logfc")[0] == pytest.approx(1.0)
    assert value(c, "cosine_logfc")[1] == pytest.approx(0.0)
    np.testing.assert_allclose(value(c, "mse_logfc"), [0.0, np.log2(1.1 / 0.2) ** 2])
    # Both predictions are the same, so each ties with the other.
    np.testing.assert_allclose(value(c, "rmse_rank_average"), 0.5)
    np.testing.assert_allclose(value(c, "rmse_rank_average_v1"), 0.25)


def test_a_mean_below_zero_counts_as_zero_in_logfc():
    c = controlled([[0.0, 1.0]], [[-3.0, 1.0]], [[1.0, 1.0]])
    zero = controlled([[0.0, 1.0]], [[-1.0, 1.0]], [[1.0, 1.0]])
    assert value(c, "mse_logfc") == value(zero, "mse_logfc")


def test_predicting_no_change_is_undefined_in_cosine_and_last_in_rank(rng):
    truth = rng.normal(size=(4, 60))
    mean = truth.copy()
    mean[0] = 0
    c = controlled(truth, mean, np.full((4, 60), 5.0))
    assert np.isnan(value(c, "cosine_logfc")).tolist() == [True, False, False, False]
    assert value(c, "cosine_rank_logfc")[0] == 1.0


def test_without_controls_there_is_no_expression_to_compare():
    c = comparison_of(np.eye(3, 60), np.eye(3, 60))
    for result in evaluate(c, [PANEL], level="condition").results:
        own = result.metric.source == "PerturbFM"
        assert np.isnan(result.values).all() == (not own), result.metric.name
        assert result.status == ("not_applicable" if result.metric.needs == "cells" else "ok")


def test_fewer_than_50_genes_have_no_top_50():
    c = controlled(np.eye(3, 49), np.eye(3, 49))
    assert np.isnan(value(c, "top_k_recall_average")).all()


def test_a_shuffled_prediction_is_caught(screen, good):
    mean = good.predicted
    shuffled = predicted(screen, np.roll(mean, 1, axis=0))
    assert value(good, "cosine_rank_logfc").mean() < 0.05
    assert value(shuffled, "cosine_rank_logfc").mean() > 0.3
    assert value(shuffled, "mmd_rank_pca").mean() > 0.3
    assert value(shuffled, "r2_score_scores").mean() < value(good, "r2_score_scores").mean()


def test_collapse_is_seen(screen):
    truth = screen[2].observed
    collapsed = predicted(screen, np.broadcast_to(truth.mean(axis=0), truth.shape))
    np.testing.assert_allclose(value(collapsed, "variance_ratio"), 0.0, atol=1e-6)
    np.testing.assert_allclose(value(collapsed, "diversity_ratio"), 0.0, atol=1e-6)
    np.testing.assert_allclose(value(collapsed, "cosine_rank_logfc"), 0.5)


def test_ranks_are_within_the_context(rng):
    rows = [("a", "P0"), ("b", "P0"), ("a", "P1"), ("c", "P0")]
    truth, mean = rng.normal(size=(4, 60)), rng.normal(size=(4, 60))
    c = controlled(truth, mean, rows=rows)
    found = value(c, "rmse_rank_average")
    distance = np.linalg.norm(mean[[0, 2], None] - truth[None, [0, 2]], axis=2)
    np.testing.assert_allclose(found[[0, 2]], ranks(distance, similarity=False))
    assert found[1] == found[3] == 0  # the only condition of its context


def test_the_observed_side_is_made_once(screen, good):
    evaluate(good, [PANEL])
    before = {k: id(v) for k, v in good.observed_shared.items() if k.startswith("perturbench.")}
    other = predicted(screen, good.predicted * 0.5)
    evaluate(other, [PANEL])
    after = {k: id(v) for k, v in other.observed_shared.items() if k.startswith("perturbench.")}
    assert before == after
    assert {"perturbench.observed", "perturbench.basis", "perturbench.scores.observed"} <= set(before)


def test_large_predictions_are_made_again_instead_of_kept(screen, good, monkeypatch):
    kept = {m.name: m.function(good) for m in panel_metrics(PANEL)}
    monkeypatch.setattr("perturbfm_core.evaluation.panels.perturbench.panel._KEPT_BYTES", 0.0)
    again = predicted(screen, good.predicted)
    for item in panel_metrics(PANEL):
        np.testing.assert_allclose(item.function(again), kept[item.name], rtol=1e-5, atol=1e-6)


def test_single_precision_distances_rank_alike(screen, good, monkeypatch):
    double = value(good, "mmd_rank_pca")
    monkeypatch.setattr("perturbfm_core.evaluation.panels.perturbench.panel._DOUBLE_WORK", 0.0)
    again = predicted(screen, good.predicted)
    np.testing.assert_allclose(value(again, "mmd_rank_pca"), double, atol=1e-12)
    np.testing.assert_allclose(value(again, "mmd_none"), value(good, "mmd_none"), atol=1e-4)


def test_a_condition_of_one_cell_cannot_be_tested(screen):
    cells = predicted(screen, screen[2].observed)
    rows = [x[:1] if i == 2 else x for i, x in enumerate(cells.cells.truth_rows)]
    alone = dataclasses.replace(
        cells, cells=dataclasses.replace(cells.cells, truth_rows=rows), shared={}, observed_shared={}
    )
    for result in evaluate(alone, [PANEL]).results:
        name = result.metric.name
        tested = name.endswith(("_scores", "_pvals", "_logp", "_var")) or name == "energy_none"
        assert np.isnan(result.values[2]) == tested, name
        assert np.isfinite(np.delete(result.values, 2)).all(), name
