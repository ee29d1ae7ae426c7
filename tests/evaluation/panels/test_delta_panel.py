"""Panel `delta` against values computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import evaluate
from tests.support.factories import comparison_of

GENES = ["A", "B", "C", "D", "E"]
SIMILARITIES = ["pearson", "cosine", "top20_overlap"]
ERRORS = ["rmse", "mae"]


def scores(comparison: Comparison) -> dict[str, list[float]]:
    """Return {metric: value of each condition} of panel `delta`."""
    return {r.metric.name: r.values.tolist() for r in evaluate(comparison, ["delta"]).results}


def value(name: str, comparison: Comparison) -> np.ndarray:
    """Return one metric of every condition."""
    return np.asarray(METRICS.get(f"delta.{name}").function(comparison))


@pytest.mark.parametrize(
    ("mean", "truth", "expected"),
    [
        pytest.param([2, 1, 0], [1, 0, -1], {"pearson": 1, "cosine": 2 / 10**0.5, "rmse": 1, "mae": 1}, id="shifted"),
        pytest.param([1, 1, -2], [1, 0, -1], {"pearson": 3 / 12**0.5, "cosine": 3 / 12**0.5}, id="near"),
        pytest.param([-1, 0, 1], [1, 0, -1], {"pearson": -1, "cosine": -1, "rmse": (8 / 3) ** 0.5, "mae": 4 / 3}, id="opposite"),
        pytest.param([3, 0, 0], [1, 2, 0], {"cosine": 1 / 5**0.5, "rmse": (8 / 3) ** 0.5, "mae": 4 / 3}, id="one gene"),
        pytest.param([0, 0, 5], [0, 3, 0], {"pearson": -0.5, "cosine": 0}, id="another gene"),
    ],
)  # fmt: skip
def test_values_of_three_genes(mean: list[float], truth: list[float], expected: dict[str, float]) -> None:
    found = scores(comparison_of([truth], [mean]))
    for name, number in expected.items():
        assert found[name] == pytest.approx([number]), name
        # Nothing measured is perturbed here, so that there is no target to leave out.
        assert np.isnan(found[f"{name}_no_target"]).all()


def test_each_condition_has_a_value_of_its_own() -> None:
    found = scores(comparison_of([[1, 0, -1], [1, 0, -1]], [[2, 1, 0], [-1, 0, 1]]))
    assert found["pearson"] == pytest.approx([1, -1])
    assert found["mae"] == pytest.approx([1, 4 / 3])


# ---- the perturbed genes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", [*SIMILARITIES, "pearson_centered", "cosine_centered", *ERRORS])
@pytest.mark.parametrize(
    ("pert", "hidden"),
    [
        pytest.param("g1", [1], id="a single"),
        pytest.param("g1+g3", [1, 3], id="a combination"),
        pytest.param("Q+g2", [2], id="one of it measured"),
        pytest.param("Q", [], id="none measured"),
    ],
)
def test_metrics_without_targets_do_not_see_them(stem: str, pert: str, hidden: list[int]) -> None:
    rng = np.random.default_rng(0)
    truth, mean, train = rng.normal(size=(1, 40)), rng.normal(size=(1, 40)), rng.normal(size=40)

    def blind(truth: Any, mean: Any, train: Any, name: str) -> float:
        return float(value(name, comparison_of(truth, mean, train_mean=train, rows=[("c", pert)]))[0])

    name = f"{stem}_no_target"
    before = blind(truth, mean, train, name), blind(truth, mean, train, stem)
    for array in (truth[0], mean[0], train):
        array[hidden] = rng.normal(0, 50, size=len(hidden))
    after = blind(truth, mean, train, name), blind(truth, mean, train, stem)
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    if hidden and stem != "top20_overlap":
        assert after[1] != pytest.approx(before[1], rel=1e-3)
    rest = np.setdiff1d(np.arange(40), hidden)
    kept = comparison_of(truth[:, rest], mean[:, rest], train_mean=train[rest])
    assert after[0] == pytest.approx(value(stem, kept)[0], rel=1e-9)


def test_targets_are_those_of_each_condition() -> None:
    rows = [("c", "B"), ("c", "A+E"), ("d", "Q")]
    comparison = comparison_of(np.ones((3, 5)), np.ones((3, 5)), rows=rows, genes=GENES)
    assert [np.flatnonzero(~keep).tolist() for keep in comparison.without_target] == [[1], [0, 4], []]


# ---- centering --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", SIMILARITIES)
def test_centered_metrics_subtract_the_train_mean_from_both_sides(stem: str) -> None:
    rng = np.random.default_rng(1)
    truth, mean, train = rng.normal(size=(3, 30)), rng.normal(size=(3, 30)), rng.normal(size=30)
    centered = value(f"{stem}_centered", comparison_of(truth, mean, train_mean=train))
    np.testing.assert_allclose(centered, value(stem, comparison_of(truth - train, mean - train)))


@pytest.mark.parametrize("stem", SIMILARITIES)
@pytest.mark.parametrize("no_target", ["", "_no_target"])
@pytest.mark.parametrize(
    "prediction",
    [
        pytest.param(lambda m: m, id="exactly"),
        pytest.param(lambda m: m.astype(np.float32), id="in single precision"),
        pytest.param(lambda m: np.add(m, 1e-9), id="but for rounding"),
    ],
)
def test_predicting_the_train_mean_earns_nothing_centered(stem: str, no_target: str, prediction: Any) -> None:
    rng = np.random.default_rng(2)
    train = rng.normal(size=30)
    mean = np.stack([prediction(train)] * 2)
    result = scores(
        comparison_of(rng.normal(size=(2, 30)), mean, train_mean=train, rows=[("c", "g3"), ("c", "g5+Q")])
    )
    assert np.isnan(result[f"{stem}_centered{no_target}"]).all()
    assert np.isfinite(result[f"{stem}{no_target}"]).all()


@pytest.mark.parametrize("stem", SIMILARITIES)
def test_the_train_mean_with_the_target_set_earns_nothing_without_the_target(stem: str) -> None:
    rng = np.random.default_rng(3)
    train = rng.normal(size=30)
    mean = train.astype(np.float32).astype(np.float64)[None].copy()
    mean[0, 4] = 5.0
    result = scores(comparison_of(rng.normal(size=(1, 30)), mean, train_mean=train, rows=[("c", "g4")]))
    assert np.isnan(result[f"{stem}_centered_no_target"]).all()
    assert np.isfinite(result[f"{stem}_centered"]).all()


def test_an_observation_equal_to_the_train_mean_is_undefined_centered() -> None:
    train = np.random.default_rng(4).normal(size=30)
    result = scores(comparison_of([train], [train + np.arange(30)], train_mean=train))
    assert np.isnan(result["pearson_centered"]).all()
    assert np.isfinite(result["rmse"]).all()


def test_the_train_mean_up_to_a_constant_correlates_with_nothing() -> None:
    rng = np.random.default_rng(5)
    train = rng.normal(size=30)
    result = scores(comparison_of(rng.normal(size=(1, 30)), [train + 2], train_mean=train))
    assert np.isnan(result["pearson_centered"]).all()
    assert np.isnan(result["cosine_centered"]).all()
    assert np.isfinite(result["pearson"]).all()


# ---- undefined --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "truth", "undefined"),
    [
        pytest.param(
            np.zeros(30), np.arange(30), {"pearson", "cosine", "top20_overlap"}, id="no change predicted"
        ),
        pytest.param(
            np.full(30, 0.3), np.arange(30), {"pearson", "cosine"}, id="the same change of every gene"
        ),
        pytest.param(
            np.arange(30), np.zeros(30), {"pearson", "cosine", "top20_overlap"}, id="no change observed"
        ),
    ],
)
def test_a_constant_has_no_similarity_but_an_error(mean: Any, truth: Any, undefined: set[str]) -> None:
    result = scores(comparison_of([truth], [mean]))
    assert {s for s in SIMILARITIES if np.isnan(result[s]).all()} == undefined
    assert np.isfinite([result[e] for e in ERRORS]).all()


def test_an_undefined_condition_says_why() -> None:
    table = evaluate(comparison_of([np.arange(30)], [np.zeros(30)]), ["delta"]).table()
    row = table[(table["metric"] == "pearson_centered") & (table["scope"] == "condition")].iloc[0]
    assert row["status"] == "undefined"
    assert row["reason"] == "prediction equals the train mean (or the observation does) up to a constant"
    row = table[(table["metric"] == "top20_overlap") & (table["scope"] == "condition")].iloc[0]
    assert row["reason"] == "predicted or observed delta is zero, or there are no more than 20 genes"


# ---- overlap of the largest changes -----------------------------------------------------------------------


def _large(at: range, genes: int = 40) -> np.ndarray:
    out = np.linspace(0.01, 0.02, genes)
    out[list(at)] = np.linspace(1, 2, len(at)) * np.where(np.arange(len(at)) % 2, 1, -1)
    return out


@pytest.mark.parametrize(
    ("predicted", "share"),
    [(range(20), 1.0), (range(20, 40), 0.0), (range(5, 25), 0.75), (range(19, 39), 0.05)],
)
def test_overlap_counts_the_largest_changes_of_either_sign(predicted: range, share: float) -> None:
    comparison = comparison_of([_large(range(20))], [_large(predicted)])
    assert value("top20_overlap", comparison) == pytest.approx([share])


@pytest.mark.parametrize(("genes", "defined"), [(20, False), (21, True)])
def test_overlap_needs_more_genes_than_it_takes(genes: int, defined: bool) -> None:
    change = np.arange(float(genes))
    assert np.isfinite(value("top20_overlap", comparison_of([change], [change])))[0] == defined


def test_overlap_shares_the_places_among_ties() -> None:
    truth = np.zeros(30)
    truth[:20] = 1.0
    predicted = np.ones(30)
    predicted[-1] = 0.5
    # 29 genes compete for the 20 places, so that each of the 20 true ones has 20 / 29 of one.
    assert value("top20_overlap", comparison_of([truth], [predicted])) == pytest.approx([20 / 29])
    # Of the last 20 one is surely not among them.
    assert value("top20_overlap", comparison_of([truth[::-1]], [predicted])) == pytest.approx([19 / 29])


# ---- retrieval --------------------------------------------------------------------------------------------

ONE_HOT = np.eye(4)
FOUR = [("c", "A"), ("c", "B"), ("c", "C"), ("c", "D")]


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        pytest.param(ONE_HOT, [0, 0, 0, 0], id="each its own"),
        pytest.param(ONE_HOT[[1, 2, 3, 0]], [2 / 3] * 4, id="each another: one better, two tied"),
        pytest.param(np.zeros((4, 4)), [0.5] * 4, id="nothing"),
        pytest.param(np.tile([4, 3, 2, 1], (4, 1)), [0, 1 / 3, 2 / 3, 1], id="all alike"),
        pytest.param([[1, 1, 0, 0]] * 4, [1 / 6, 1 / 6, 5 / 6, 5 / 6], id="ties count one half"),
    ],
)
def test_retrieval_ranks_the_observed_conditions_of_the_context(mean: Any, expected: list[float]) -> None:
    comparison = comparison_of(ONE_HOT, mean, rows=FOUR)
    np.testing.assert_allclose(value("retrieval_rank", comparison), expected)


def test_retrieval_stays_within_a_context() -> None:
    rows = [("c", "A"), ("c", "B"), ("d", "A"), ("e", "A"), ("e", "B")]
    truth = np.asarray([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1]])
    mean = np.asarray([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
    found = value("retrieval_rank", comparison_of(truth, mean, rows=rows))
    np.testing.assert_array_equal(found, [0, 1, np.nan, 1, 0])


def test_retrieval_does_not_depend_on_the_size_of_a_change() -> None:
    rng = np.random.default_rng(6)
    truth, mean = rng.normal(size=(4, 9)), rng.normal(size=(4, 9))
    plain = value("retrieval_rank", comparison_of(truth, mean, rows=FOUR))
    scaled = value("retrieval_rank", comparison_of(truth * [[1], [2], [3], [4]], mean * 7, rows=FOUR))
    np.testing.assert_array_equal(plain, scaled)


def test_a_prediction_that_is_the_same_everywhere_retrieves_at_chance() -> None:
    rng = np.random.default_rng(7)
    rows = [("c", f"P{i}") for i in range(30)]
    same = np.tile(rng.normal(size=12), (30, 1))
    found = value("retrieval_rank", comparison_of(rng.normal(size=(30, 12)), same, rows=rows))
    assert found.mean() == pytest.approx(0.5)
