"""Metrics on data with ties, zeros and constant vectors: order of columns, undefined values, and what is said of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata
from perturbfm_core.data.obs import make_obs
from perturbfm_core.evaluation import rowwise, ties
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import evaluate, metrics_json
from perturbfm_core.schema import CONTEXT_ID, PERT_ID
from perturbfm_core.splits.split import FrozenSplit
from tests.support.factories import comparison_of, prediction_of, split_one

GENES = 120
PERTS = [f"g{i:03d}" for i in (3, 7, 11, 15, 19, 23)] + ["g003+g007", "drug"]


def quantised(seed: int = 0) -> PerturbDataset:
    """Return cells with few different values: many ties and zeros, genes without counts, a gene of one value."""
    rng = np.random.default_rng(seed)
    labels = [("control", c) for c in ("A", "B") for _ in range(24)]
    labels += [(p, c) for c in ("A", "B") for p in PERTS for _ in range(8)]
    X = rng.integers(0, 3, size=(len(labels), GENES)).astype(np.float32) * 0.5
    for i, (pert, context) in enumerate(labels):
        shift = np.zeros(GENES)
        own = PERTS.index(pert) if pert in PERTS else None
        if own is not None:
            shift[5 * own : 5 * own + 12] = 1.0
            shift[60 + own] = 0.5 * (context == "B")
        X[i] += shift.astype(np.float32)
    X[:, 90:] = 0.0
    X[:, 89] = 1.5
    # This perturbation changes nothing: its cells are those of the controls.
    for context in ("A", "B"):
        controls = [i for i, row in enumerate(labels) if row == ("control", context)]
        still = [i for i, row in enumerate(labels) if row == ("drug", context)]
        X[still] = X[controls[: len(still)]]
        X[controls] = X[np.tile(controls[: len(still)], 3)]
    obs = make_obs(
        {PERT_ID: [p for p, _ in labels], CONTEXT_ID: [c for _, c in labels]},
        [f"r{i}" for i in range(len(labels))],
    )
    names = [f"g{i:03d}" for i in range(GENES)]
    return PerturbDataset(obs, names, Values(expression=X), DatasetMetadata(name="quantised"))


@lru_cache(maxsize=1)
def case() -> tuple[PerturbDataset, FrozenSplit]:
    ds = quantised()
    return ds, split_one(ds, "context_ood", {"holdout": ["B"]})


def predictions(ds: PerturbDataset, split: FrozenSplit) -> dict[str, np.ndarray]:
    """Return a prediction of each condition: with ties, sparse, zero, constant, near constant, and one of the truth."""
    side = observed(ds, split)
    rng = np.random.default_rng(1)
    out = {}
    for i, key in enumerate(side.conditions.index):
        kind = i % 6
        sparse = np.zeros(GENES)
        sparse[rng.choice(90, 9, replace=False)] = 0.5
        out[key] = [
            rng.integers(-2, 3, GENES) * 0.25 * (np.arange(GENES) < 90),
            sparse,
            np.zeros(GENES),
            np.full(GENES, 0.25),
            0.1 + 1e-9 * rng.normal(size=GENES),
            side.observed[i],
        ][kind].astype(np.float32)
    return out


def permuted(ds: PerturbDataset, order: np.ndarray) -> PerturbDataset:
    X = ds.values.expression
    assert X is not None
    return PerturbDataset(ds.obs, ds.genes[order], Values(expression=X[:, order]), ds.metadata)


def table(order: np.ndarray) -> pd.DataFrame:
    """Return the scores of every metric with the columns in an order."""
    ds, split = case()
    means = predictions(ds, split)
    moved = permuted(ds, order)
    moved_split = split_one(moved, "context_ood", {"holdout": ["B"]})
    given = prediction_of(moved, moved_split, {k: m[order] for k, m in means.items()})
    var = (0.1 + 0.1 * (np.arange(GENES) % 3))[order].astype(np.float32)
    given = replace(given, var=np.broadcast_to(var, given.mean.shape).copy())
    scores = evaluate(compare(moved, moved_split, given)).table()
    scores["name"] = scores["panel"] + "." + scores["metric"]
    return scores.set_index(["name", "scope", "key"])


@lru_cache(maxsize=1)
def plain() -> pd.DataFrame:
    return table(np.arange(GENES))


@lru_cache(maxsize=2)
def shuffled(seed: int) -> pd.DataFrame:
    return table(np.random.default_rng(seed).permutation(GENES))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", METRICS.names())
def test_the_order_of_columns_never_matters(name: str, seed: int) -> None:
    before, after = plain().loc[name], shuffled(seed).loc[name]
    np.testing.assert_allclose(
        after["value"].to_numpy(float), before["value"].to_numpy(float), rtol=1e-5, atol=1e-6
    )
    assert after["status"].tolist() == before["status"].tolist()
    assert after["reason"].tolist() == before["reason"].tolist()


# ---- vectors that are constant up to rounding ----------------------------------------------------------------

RNG = np.random.default_rng(3)
FLAT = {
    "zero": np.zeros(GENES),
    "constant": np.full(GENES, 0.25),
    "constant but for rounding": 0.1 + 1e-9 * RNG.normal(size=GENES),
    "constant in single precision": np.float32(0.3) + 3e-8 * RNG.integers(-1, 2, GENES),
    "zero but for rounding": 1e-9 * RNG.normal(size=GENES),
}
# Metrics of deltas by name; those of vectors that are not deltas, such as mean expression, do vary.
OF_DELTAS = [
    "delta.pearson",
    "delta.cosine",
    "delta.pearson_no_target",
    "delta.cosine_no_target",
    "openproblems.mean_rowwise_pearson",
    "openproblems.mean_rowwise_spearman",
    "openproblems.mean_rowwise_cosine",
    "linear_paper.pearson_delta",
    "systema.corr_all",
    "systema.corr_20de",
    "virtual_cell.pearson_delta",
    "calibrated.pearson_deltactrl",
    "calibrated.pearson_deltactrl_degs",
    "calibrated.r2_deltactrl",
    "calibrated.r2_deltactrl_degs",
    "calibrated.weighted_r2_deltactrl",
    "perturbench.spearman_delta",
    *(f"scperturbench.pearson_distance_top{n}" for n in (20, 50, 100, 5000)),
]


@lru_cache(maxsize=8)
def predicting(kind: str) -> pd.DataFrame:
    """Return the scores of every condition for one prediction of all of them."""
    ds, split = case()
    keys = observed(ds, split).conditions.index
    given = prediction_of(ds, split, dict.fromkeys(keys, FLAT[kind]))
    scores = evaluate(
        compare(ds, split, replace(given, mean=np.tile(FLAT[kind], (len(given.mean), 1))))
    ).table()
    scores["name"] = scores["panel"] + "." + scores["metric"]
    return scores[scores["scope"] == "condition"].set_index(["name", "key"])


@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("name", OF_DELTAS)
def test_a_constant_prediction_has_no_correlation(name: str, kind: str) -> None:
    rows = predicting(kind).loc[name]
    assert rows["value"].isna().all()
    assert set(rows["status"]) <= {"undefined", "not_applicable"}
    assert rows["reason"].notna().all()


@pytest.mark.parametrize("kind", ["zero", "zero but for rounding"])
@pytest.mark.parametrize("stem", ["pearson", "cosine", "r2_score"])
def test_predicting_the_control_has_no_correlation_of_fold_changes(stem: str, kind: str) -> None:
    rows = predicting(kind).loc[f"perturbench.{stem}_logfc"]
    assert rows["value"].isna().all()
    assert set(rows["reason"]) == {
        "the predicted or the observed vector is constant over its entries, or the data set has no control means"
    }


def test_a_condition_equal_to_its_control_has_no_correlation() -> None:
    ds, split = case()
    side = observed(ds, split)
    still = [k for k in side.conditions.index if "drug" in k]
    rows = plain()[plain().index.get_level_values("scope") == "condition"].reset_index()
    mine = rows[rows["key"].isin(still) & rows["name"].isin(OF_DELTAS)]
    assert len(mine) == len(OF_DELTAS)
    assert mine["value"].isna().all()
    for metric in ("pearson_logfc", "cosine_logfc", "r2_score_logfc"):
        assert np.isnan(plain().loc[(f"perturbench.{metric}", "condition", still[0]), "value"])


def test_no_value_is_a_ratio_of_rounding_errors() -> None:
    """Every value of every prediction of these, and of one that varies, is of a size that such scores have."""
    for kind in FLAT:
        rows = predicting(kind)
        sizes = rows["value"].abs()
        # R² of `logp` has no bound: nearly all adjusted p-values of a weak perturbation are 1, so its vector hardly varies.
        assert sizes[~rows["metric"].str.contains("nll|calibrated_|r2_score_logp")].max() < 1e4


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("function", [rowwise.pearson, rowwise.spearman])
def test_rowwise_correlations_of_constants_are_undefined_at_any_scale(function: Any, scale: float) -> None:
    varied = scale * RNG.normal(size=(len(FLAT), GENES))
    flat = scale * np.stack([v for k, v in FLAT.items() if k != "zero but for rounding"])
    assert np.isnan(function(varied[:4], flat)).all()
    assert np.isnan(function(flat, varied[:4])).all()
    assert np.isfinite(function(varied, varied)).all()
    # A small change on a large constant is no rounding.
    assert np.isfinite(function(flat + 1e-3 * varied[:4], varied[:4])[1:]).all()


def test_a_masked_gene_does_not_decide_what_is_constant() -> None:
    A, B = RNG.normal(size=(2, 30)), RNG.normal(size=(2, 30))
    A[:, 5] = 1e9
    mask = np.ones(A.shape, dtype=bool)
    mask[:, 5] = False
    rest = np.arange(30) != 5
    np.testing.assert_allclose(rowwise.pearson(A, B, mask), rowwise.pearson(A[:, rest], B[:, rest]))
    assert np.isnan(rowwise.pearson(A, B, np.zeros_like(mask))).all()


def test_spearman_does_not_rank_rounding() -> None:
    noise = comparison_of([np.arange(30.0)], [np.full(30, 0.2) + 1e-10 * RNG.normal(size=30)])
    result = {r.metric.name: r.values for r in evaluate(noise, ["openproblems"]).results}
    assert np.isnan(result["mean_rowwise_spearman"]).all()


def test_changes_that_are_rounding_of_the_expression_are_zero() -> None:
    control = np.full((3, 40), 4.0)
    noise = 1e-7 * RNG.normal(size=40)
    entries = np.where(np.arange(40) < 5, 1.0, 1e-15)
    c = replace(
        comparison_of([noise, entries, entries], [entries, noise, RNG.normal(size=40)]), control=control
    )
    assert not c.observed[0].any()
    assert not c.predicted[1].any()
    assert np.count_nonzero(c.observed[1]) == np.count_nonzero(c.predicted[0]) == 5
    assert c.predicted[2].all()


# ---- the largest entries -------------------------------------------------------------------------------------


def over_orders(A: np.ndarray, B: np.ndarray, k: int, jaccard: bool) -> float:
    """Return the mean over all orders of columns of a score that gives ties to the earlier column."""
    k = min(k, np.count_nonzero(A), np.count_nonzero(B))
    found = []
    for order in permutations(range(len(A))):
        p = np.asarray(order)
        top = [set(p[np.argsort(-np.abs(x[p]), kind="stable")[:k]]) for x in (A, B)]
        shared = len(top[0] & top[1])
        found.append(shared / (2 * k - shared if jaccard else k))
    return float(np.mean(found))


@pytest.mark.parametrize("seed", range(12))
def test_overlaps_are_expectations_over_the_orders_of_columns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    A, B = rng.integers(-2, 3, (2, 6)).astype(float)
    A[0], B[1] = 2.0, -2.0
    k = int(rng.integers(1, 6))
    assert rowwise.top_overlap(A[None], B[None], k)[0] == pytest.approx(over_orders(A, B, k, False))
    both = ties.both_largest(A[None], B[None], k)
    assert ties.expected_jaccard(*both)[0] == pytest.approx(over_orders(A, B, k, True))


@pytest.mark.parametrize(
    ("mean", "truth", "k", "expected"),
    [
        pytest.param([3, 2, 1, 0], [3, 2, 1, 0], 2, 1.0, id="no ties"),
        pytest.param([1, 1, 1, 1], [4, 3, 2, 1], 2, 0.5, id="all tied on one side: k of n"),
        pytest.param([2, 1, 1, 0.5], [3, 2, 1, 0.5], 2, 0.75, id="one of two"),
        pytest.param([2, 1, 1, 0.5], [3, 0.1, 2, 1], 2, 0.75, id="the other of the two"),
        pytest.param([1, -1, 1, 0.5], [1, -1, 1, 0.5], 2, 1.0, id="the same ties on both sides"),
        pytest.param([2, 1, 1, 0.1], [2, 1, 0.1, 1], 2, (1 + 1 / 3) / 2, id="ties that share one of two"),
        pytest.param([5, 0, 0, 0], [5, 4, 3, 2], 3, 1.0, id="a single change: k is 1"),
        pytest.param([0, 0, 5, 0], [5, 4, 3, 2], 3, 0.0, id="a single change elsewhere"),
        pytest.param([3, 1, 0, 0], [0, 1, 0, 2], 3, 0.5, id="k is 2"),
        pytest.param([0, 0, 0, 0], [3, 2, 1, 0], 2, np.nan, id="nothing predicted"),
        pytest.param([3, 2, 1, 0], [0, 0, 0, 0], 2, np.nan, id="nothing observed"),
        pytest.param([3, 2, 1, 4], [3, 2, 1, 4], 4, np.nan, id="no column is left out"),
        pytest.param([1, 1 + 1e-12, 1, 0.5], [3, 2, 1, 0.5], 2, 2 / 3, id="tied up to rounding"),
        pytest.param([3, 1e-12, 0, 0], [3, 2, 1, 0.5], 2, 1.0, id="zero up to rounding"),
    ],
)
def test_overlaps_by_hand(mean: list[float], truth: list[float], k: int, expected: float) -> None:
    A, B = np.asarray([mean], dtype=float), np.asarray([truth], dtype=float)
    assert rowwise.top_overlap(A, B, k) == pytest.approx([expected], nan_ok=True)
    assert rowwise.top_overlap(B, A, k) == pytest.approx([expected], nan_ok=True)


def test_infinite_entries_share_the_places_too() -> None:
    A = np.asarray([[np.inf, np.inf, -np.inf, 1.0, 0.0]])
    B = np.asarray([[np.inf, 3.0, 2.0, 1.0, 0.0]])
    assert rowwise.top_overlap(A, B, 1) == pytest.approx([1 / 3])
    assert rowwise.top_overlap(A, B, 2) == pytest.approx([2 / 3])


def test_expectations_with_many_ties_are_those_of_a_simulation() -> None:
    rng = np.random.default_rng(0)
    A, B = np.zeros((2, 300))
    A[:200], B[100:] = 1.0, 1.0
    a, b = ties.both_largest(A[None], B[None], 30)
    drawn = []
    for _ in range(400):
        order = rng.permutation(300)
        top = [set(order[np.argsort(-x[order], kind="stable")[:30]]) for x in (A, B)]
        drawn.append(len(top[0] & top[1]))
    assert ties.expected_shared(a, b)[0] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)


def test_one_row_with_few_genes_leaves_the_others_defined() -> None:
    A = np.tile(np.arange(1.0, 6.0), (2, 1))
    mask = np.asarray([[True] * 5, [True, True, False, False, False]])
    assert rowwise.top_overlap(A, A, 3, mask) == pytest.approx([1.0, np.nan], nan_ok=True)


def test_a_smaller_k_is_said_with_the_value() -> None:
    truth = np.zeros((3, 60))
    truth[0, :7], truth[1, :40], truth[2, :30] = 1.0, np.arange(1, 41), np.arange(1, 31)
    mean = truth.copy()
    mean[2, 12:] = 0.0
    scores = evaluate(comparison_of(truth, mean), ["delta"]).table()
    rows = scores[scores["metric"] == "top20_overlap"]
    single = rows[rows["scope"] == "condition"]
    assert single["value"].tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert single["status"].tolist() == ["ok"] * 3
    assert single["reason"].tolist() == [
        "k = 7 instead of 20: no more entries are nonzero",
        None,
        "k = 12 instead of 20: no more entries are nonzero",
    ]
    said = "k is below 20 in 2 of 3 conditions, at least 7: no more entries are nonzero"
    assert rows[rows["scope"] == "global"]["reason"].tolist() == [said]
    assert metrics_json(scores)["notes"]["delta.global.top20_overlap"] == said


@pytest.mark.parametrize("panel", ["delta", "perturbench", "systema", "scperturbench"])
def test_every_panel_says_where_k_is_smaller(panel: str) -> None:
    rows = plain()[plain()["panel"] == panel]
    said = rows["reason"].fillna("").str.contains("no more entries are nonzero")
    names = {n.split(".")[1] for n in rows[said].index.get_level_values("name")}
    wanted = {
        "delta": {"top20_overlap"},
        "perturbench": {"top_k_recall_logfc"},
        "systema": {"jaccard"},
        "scperturbench": {"mse_top100", "common_degs_top100"},
    }
    assert wanted[panel] <= names


def test_genes_that_do_not_change_are_not_among_those_that_change_most() -> None:
    truth, mean = np.zeros((2, 60)), np.ones((2, 60))
    truth[0, 50:57] = np.arange(1, 8)
    c = replace(comparison_of(truth, mean), control=np.ones_like(truth))
    table = evaluate(c, ["systema"]).table()
    rows = table[(table["metric"] == "mse_20de") & (table["scope"] == "condition")]
    assert rows["value"].tolist() == pytest.approx([np.square(np.arange(7)).mean(), np.nan], nan_ok=True)
    assert rows["reason"].tolist() == ["k = 7 instead of 20: no more entries are nonzero", "no gene changes"]


# ---- ranks ---------------------------------------------------------------------------------------------------


def ranked(truth: Any, mean: Any) -> dict[str, list[float]]:
    """Return the rank metrics of conditions of one context, with a control to have expression."""
    truth = np.asarray(truth, dtype=float)
    c = replace(comparison_of(truth, mean), control=np.ones_like(truth))
    table = {
        f"{r.metric.panel}.{r.metric.name}": r.values.tolist()
        for r in evaluate(c, ["delta", "systema", "virtual_cell", "calibrated", "perturbench"]).results
    }
    return {k: v for k, v in table.items() if k in RANKS}


RANKS = (
    "delta.retrieval_rank",
    "systema.centroid_accuracy",
    "calibrated.nir",
    "virtual_cell.discrimination_score_l1",
    "virtual_cell.discrimination_score_l2",
    "virtual_cell.discrimination_score_cosine",
    "perturbench.cosine_rank_logfc",
    "perturbench.rmse_rank_average",
)


@pytest.mark.parametrize("name", RANKS)
def test_conditions_with_equal_observations_share_their_ranks(name: str) -> None:
    truth = np.asarray([[1.0, 0.1, 0.0, 0.2]] * 3 + [[0.0, 0.0, 2.0, 0.3]])
    mean = np.asarray([[1.0, 0.1, 0.0, 0.2]] * 3 + [[0.0, 0.1, 2.0, 0.3]])
    found = ranked(truth, mean)[name]
    # Each of the first three is at the mean of places 0, 1 and 2; of four with itself, or of three others.
    tied = {"discrimination": 1 - 1 / 4, "rank": 1 / 3, "accuracy": 2 / 3, "nir": 2 / 3}
    assert found[:3] == pytest.approx([next(v for k, v in tied.items() if k in name)] * 3)
    assert found[3] == pytest.approx(0.0 if "rank" in name else 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_ties_of_ranks_do_not_depend_on_the_order_of_summation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Sums of these tenths are equal in exact arithmetic only.
    base = rng.integers(1, 9, 60) / 10
    truth = np.stack([rng.permutation(base) for _ in range(5)])
    mean = np.full((5, 60), 0.7)
    plainly = ranked(truth, mean)
    order = rng.permutation(60)
    moved = ranked(truth[:, order], mean[:, order])
    for name in RANKS:
        np.testing.assert_allclose(moved[name], plainly[name], atol=1e-9, err_msg=name)
    for name in ("calibrated.nir", "systema.centroid_accuracy", "virtual_cell.discrimination_score_l1"):
        assert plainly[name] == pytest.approx([0.6 if "disc" in name else 0.5] * 5), name


def test_equal_errors_share_the_places_of_large_ones() -> None:
    from perturbfm_core.evaluation.panels.uncertainty.selective import error_detection

    risk, sigma = np.asarray([3.0, 2.0, 2.0, 1.0, 1.0, 1.0]), np.asarray([1.0, 0.5, 0.1, 0.3, 0.2, 0.4])
    # Two of six are large: the first, and either of the next two.
    one = error_detection(np.asarray([3.0, 2.5, 2.0, 1.0, 1.0, 1.0]), sigma)
    other = error_detection(np.asarray([3.0, 2.0, 2.5, 1.0, 1.0, 1.0]), sigma)
    assert error_detection(risk, sigma) == pytest.approx((one + other) / 2)
    for order in permutations(range(6)):
        p = list(order)
        assert error_detection(risk[p], sigma[p]) == pytest.approx((one + other) / 2)
    assert np.isnan(error_detection(1 + 1e-12 * RNG.normal(size=6), sigma))


# ---- metrics without the perturbed genes ---------------------------------------------------------------------

NO_TARGET = [n for n in METRICS.names() if n.endswith("_no_target")]


def test_there_are_metrics_without_targets_in_two_panels() -> None:
    assert {n.split(".")[0] for n in NO_TARGET} == {"delta", "calibrated"}
    assert len(NO_TARGET) > 10


@pytest.mark.parametrize("name", NO_TARGET)
def test_without_a_measured_target_there_is_nothing_to_leave_out(name: str) -> None:
    rows = plain().loc[name]
    drug = rows.loc["condition"].filter(like="drug", axis=0).iloc[0]
    assert np.isnan(drug["value"])
    assert drug["status"] == "not_applicable"
    assert drug["reason"].startswith("no perturbed gene of the condition is measured")
    others = rows.loc["condition"].drop(index=[k for k in rows.loc["condition"].index if "drug" in k])
    assert "not_applicable" not in set(others["status"])
    assert rows.loc[("perturbation", "drug"), "status"] == "not_applicable"
    assert "1 of 8 conditions not applicable" in rows.loc[("global", "all"), "reason"]


@pytest.mark.parametrize(
    ("pert", "applies"),
    [("g1", True), ("g1+g2", True), ("g1+Q", True), ("Q", False), ("Q+R", False), ("G1", False)],
)
def test_a_target_counts_if_any_perturbed_gene_is_measured(pert: str, applies: bool) -> None:
    rng = np.random.default_rng(0)
    c: Comparison = comparison_of(rng.normal(size=(1, 40)), rng.normal(size=(1, 40)), rows=[("c", pert)])
    table = evaluate(c, ["delta"]).table()
    rows = table[table["metric"].str.endswith("_no_target")]
    assert set(rows["status"]) == {"ok" if applies else "not_applicable"}
    assert rows["value"].notna().all() == applies


def _in_every_order(n: int, a: int, for_a: int, b: int, for_b: int) -> float:
    """Return the mean number of common columns with a place on both sides, over all orders of the kinds of columns."""
    orders = set(itertools.permutations("c" * n + "a" * a + "b" * b))
    total = 0
    for order in orders:
        left = {"a": for_a, "b": for_b}
        for kind in order:
            got = [side for side in "ab" if kind in ("c", side) and left[side]]
            for side in got:
                left[side] -= 1
            total += kind == "c" and len(got) == 2
    return total / len(orders)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("a", [1, 3])
@pytest.mark.parametrize("b", [1, 2])
def test_shared_ties_are_those_of_all_orders(n: int, a: int, b: int) -> None:
    for for_a, for_b in itertools.product(range(1, n + a), range(1, n + b)):
        found = ties._expected_common(n, a, for_a, b, for_b)
        assert found == pytest.approx(_in_every_order(n, a, for_a, b, for_b), abs=1e-12)


@pytest.mark.parametrize(
    "case",
    [
        (2000, 500, 100, 700, 50),
        (18000, 300, 50, 2, 100),
        (60, 5000, 100, 10, 100),
        (3000, 3, 150, 9000, 150),
    ],
)
def test_the_quadrature_for_very_many_places_agrees_with_the_sum(
    case: tuple[int, int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = ties._expected_common(*case)
    monkeypatch.setattr(ties, "_EXACT", 0)
    assert ties._expected_common(*case) == pytest.approx(exact, rel=1e-6)
