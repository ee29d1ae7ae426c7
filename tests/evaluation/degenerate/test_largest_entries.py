"""Overlaps of the largest entries where they are tied, infinite or few."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from perturbfm_core.evaluation import rowwise, ties
from perturbfm_core.evaluation.panel import evaluate, metrics_json
from tests.support.degenerate_screen import plain
from tests.support.factories import comparison_of


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
    assert rowwise.top_overlap(A[None], B[None], k)[0][0] == pytest.approx(over_orders(A, B, k, False))
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
    assert rowwise.top_overlap(A, B, k)[0] == pytest.approx([expected], nan_ok=True)
    assert rowwise.top_overlap(B, A, k)[0] == pytest.approx([expected], nan_ok=True)


def test_infinite_entries_share_the_places_too() -> None:
    A = np.asarray([[np.inf, np.inf, -np.inf, 1.0, 0.0]])
    B = np.asarray([[np.inf, 3.0, 2.0, 1.0, 0.0]])
    assert rowwise.top_overlap(A, B, 1)[0] == pytest.approx([1 / 3])
    assert rowwise.top_overlap(A, B, 2)[0] == pytest.approx([2 / 3])


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
    assert rowwise.top_overlap(A, A, 3, mask)[0] == pytest.approx([1.0, np.nan], nan_ok=True)


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
