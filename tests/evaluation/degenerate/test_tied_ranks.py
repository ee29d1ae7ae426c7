"""Ranks of tied conditions, and metrics without the perturbed genes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from perturbfm_core.evaluation import ties
from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import evaluate
from tests.support.degenerate_screen import plain
from tests.support.factories import comparison_of


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
    assert np.isnan(error_detection(1 + 1e-12 * np.random.default_rng(3).normal(size=6), sigma))


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
