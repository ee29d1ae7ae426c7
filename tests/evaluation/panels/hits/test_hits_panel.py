"""Panel `hits`: values by hand, degenerate cases and what simulated effects score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm, spearmanr

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.hits import screening
from perturbfm_core.evaluation.panels.hits.changed import significant
from tests.support.factories import comparison_of

NAN = float("nan")


def with_error(truth: Any, mean: Any, s2: Any, **given: Any) -> Comparison:
    c = comparison_of(truth, mean, **given)
    return replace(c, s2=np.array(np.broadcast_to(np.asarray(s2, dtype=float), c.observed.shape)))


def values(c: Comparison, name: str) -> list[float]:
    (result,) = [r for r in evaluate(c, ["hits"]).results if r.metric.name == name]
    return [float(x) for x in result.values]


def overall(c: Comparison, name: str) -> float:
    table = evaluate(c, ["hits"]).table()
    mine = table[(table["metric"] == name) & (table["scope"] == "global")]
    return float(mine["value"].iloc[0])


# ---- changed genes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_significance_is_that_of_benjamini_and_hochberg(seed: int) -> None:
    rng = np.random.default_rng(seed)
    delta = rng.normal(size=(5, 60)) * rng.choice([1.0, 4.0], size=(5, 60))
    delta[:, 1] = delta[:, 0]
    s2, mask = rng.uniform(0.5, 2.0, size=(5, 60)), rng.random((5, 60)) > 0.1
    s2[:, 7] = 0.0
    found = significant(delta, s2, mask)
    for i in range(5):
        tested = mask[i] & (s2[i] > 0)
        p = 2 * norm.sf(np.abs(delta[i, tested]) / np.sqrt(s2[i, tested]))
        expected = np.zeros(60, dtype=bool)
        expected[tested] = false_discovery_control(p) <= 0.05
        assert (found[i] == expected).all()


def test_direction_recall_and_precision_by_hand() -> None:
    truth = [[9.0, -9.0, 9.0, 9.0, 0.1, 0.1]]
    #          called, right; called, wrong; small, right; none; called, not changed
    c = with_error(truth, [[8.0, 8.0, 0.2, 0.0, 7.0, 0.0]], 1.0)
    assert values(c, "direction_accuracy") == [pytest.approx((1 + 0 + 1 + 0.5) / 4)]
    assert values(c, "recall") == [pytest.approx(1 / 4)]
    assert values(c, "precision") == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("mean", "direction", "recall", "precision"),
    [
        pytest.param([9.0, -9.0, 0.1, 0.1], 1.0, 1.0, 1.0, id="the observation itself"),
        pytest.param([-9.0, 9.0, 0.0, 0.0], 0.0, 0.0, 0.0, id="the opposite"),
        pytest.param([0.0, 0.0, 0.0, 0.0], 0.5, 0.0, NAN, id="no change"),
        pytest.param([0.9, -0.9, 0.0, 0.0], 1.0, 0.0, NAN, id="a tenth of it"),
        pytest.param([9.0, 9.0, 9.0, 9.0], 0.5, 0.5, 0.25, id="all up"),
        pytest.param([0.0, -9.0, 0.0, -9.0], 0.75, 0.5, 0.5, id="one of two, and a false call"),
    ],
)
def test_predictions_by_hand(mean: list[float], direction: float, recall: float, precision: float) -> None:
    c = with_error([[9.0, -9.0, 0.1, 0.1]], [mean], 1.0)
    got = [values(c, name)[0] for name in ("direction_accuracy", "recall", "precision")]
    assert got == pytest.approx([direction, recall, precision], nan_ok=True)


@pytest.mark.parametrize(
    ("mean", "expected"),
    [
        pytest.param([9.0, -9.0, 0.1, 0.1], 1.0, id="the observation itself"),
        pytest.param([0.09, -0.09, 0.01, 0.01], 1.0, id="a hundredth of it"),
        pytest.param([-9.0, 9.0, 0.0, 0.0], 0.0, id="the opposite"),
        pytest.param([0.0, 0.0, 0.0, 0.0], 0.0, id="no change"),
        pytest.param([9.0, 0.0, 9.0, 0.0], 0.5, id="one of two"),
        pytest.param([1.0, -1.0, 1.0, 1.0], 0.5, id="all tied: two of four places"),
        pytest.param([2.0, -1.0, 1.0, 1.0], (1 + 1 / 3) / 2, id="three tied for the second place"),
        pytest.param([0.0, -1.0, 0.0, 0.0], 0.5, id="a single change"),
    ],
)
def test_the_largest_predicted_changes_by_hand(mean: list[float], expected: float) -> None:
    assert values(with_error([[9.0, -9.0, 0.1, 0.1]], [mean], 1.0), "recall_at_n") == [
        pytest.approx(expected)
    ]


def test_changes_are_ranked_by_what_their_error_says_of_them() -> None:
    # The noisy gene has the largest change by size, and the smallest by its error.
    c = with_error([[9.0, 9.0, 12.0]], [[1.0, 1.0, 2.0]], [[1.0, 1.0, 100.0]])
    assert values(c, "recall_at_n") == [1.0]


def test_the_perturbed_gene_is_no_hit() -> None:
    truth, mean = [[-9.0, 9.0, 0.0], [-9.0, 9.0, 0.0]], [[-9.0, -9.0, 0.0], [-9.0, -9.0, 0.0]]
    c = with_error(truth, mean, 1.0, rows=[("c", "g0"), ("c", "drug")])
    assert values(c, "direction_accuracy") == [0.0, 0.5]


@pytest.mark.parametrize("s2", [0.0, 1e6])
def test_without_changed_genes_there_is_no_value_but_a_reason(s2: float) -> None:
    table = evaluate(with_error([[1.0, -1.0]], [[1.0, -1.0]], s2), ["hits"]).table()
    rows = table[table["scope"] == "condition"]
    assert rows["value"].isna().all()
    assert (rows["status"] == "undefined").all()
    assert rows["reason"].notna().all()


def test_nothing_predicted_where_nothing_changes_is_undefined_and_a_false_call_has_no_precision() -> None:
    c = with_error([[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [9.0, 0.0]], 1.0)
    assert values(c, "precision") == pytest.approx([NAN, 0.0], nan_ok=True)
    assert values(c, "recall") == pytest.approx([NAN, NAN], nan_ok=True)


# ---- effect sizes ----------------------------------------------------------------------------------------------


def sized(seen: Any, predicted: Any, s2: float = 0.0, contexts: str = "") -> Comparison:
    """Return a comparison of two genes whose changes have these lengths."""
    rows = [(x, f"P{i}") for i, x in enumerate(contexts or "c" * len(seen))]
    both = [
        np.stack([0.6 * np.asarray(x, float), 0.8 * np.asarray(x, float)], axis=1) for x in (seen, predicted)
    ]
    return with_error(*both, s2, rows=rows)


@pytest.mark.parametrize(
    ("seen", "predicted", "spearman", "top", "enriched"),
    [
        pytest.param([1, 2, 3, 4], [2, 4, 6, 8], 1.0, 0.0, 4.0, id="right order"),
        pytest.param([1, 2, 3, 4], [4, 3, 2, 1], -1.0, 1.0, 0.0, id="reverse"),
        pytest.param([1, 2, 3, 4], [1, 1, 1, 1], NAN, 0.5, 1.0, id="all tied"),
        pytest.param([1, 2, 3, 4], [1, 2, 4, 4], 4.5 / 22.5**0.5, 0.5 / 3, 2.0, id="two tied at the top"),
        pytest.param([3, 3, 1, 2], [5, 4, 1, 2], 4.5 / 22.5**0.5, 0.0, 2.0, id="two strongest"),
        pytest.param([3, 3, 1, 2], [5, 1, 4, 2], -0.5 / 22.5**0.5, 0.5, 2.0, id="one of two strongest"),
        pytest.param([2, 2, 2, 2], [1, 2, 3, 4], NAN, NAN, NAN, id="one observed size"),
        pytest.param([5], [5], NAN, NAN, NAN, id="one condition"),
        pytest.param([1, 5], [1, 5], NAN, 0.0, 2.0, id="two conditions"),
        pytest.param([1, 5, 0], [0, 0, 0], NAN, 0.5, 1.0, id="no change predicted"),
    ],
)
def test_screens_by_hand(seen: list, predicted: list, spearman: float, top: float, enriched: float) -> None:
    c = sized(seen, predicted)
    got = [overall(c, n) for n in ("effect_size_spearman", "screen_top_rank", "screen_enrichment")]
    assert got == pytest.approx([spearman, top, enriched], nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_the_rank_correlation_is_that_of_scipy(seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 6, (2, 12)).astype(float)
    assert screening.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


@pytest.mark.parametrize(
    ("n", "k"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (30, 3), (95, 10), (100, 10)]
)
def test_a_tenth_are_hits(n: int, k: int) -> None:
    assert screening.n_hits(n) == k
    order = np.arange(n, dtype=float) + 1
    if n > 1:
        assert screening.enrichment(order, order) == pytest.approx(n / k)


def test_hits_have_an_effect() -> None:
    # 20 conditions, of which one has an effect: one hit, though a tenth are two.
    seen = np.zeros(20)
    seen[3] = 1.0
    predicted = np.arange(20.0)
    predicted[3] = 18.5
    assert screening.enrichment(seen, predicted) == pytest.approx((1 / 2) / (1 / 20))


def test_the_enrichment_is_an_expectation_over_tie_orders() -> None:
    rng = np.random.default_rng(0)
    seen, predicted = rng.integers(1, 5, 30).astype(float), rng.integers(1, 4, 30).astype(float)
    drawn = []
    for _ in range(4000):
        top = [set(np.lexsort((rng.random(30), -x))[:3]) for x in (seen, predicted)]
        drawn.append(len(top[0] & top[1]) / 3 / 0.1)
    error = np.std(drawn) / len(drawn) ** 0.5
    assert screening.enrichment(seen, predicted) == pytest.approx(np.mean(drawn), abs=4 * error)


def test_sizes_that_differ_by_rounding_are_tied() -> None:
    a = np.asarray([1.0, 1.0 + 1e-9, 1e-4, 1e-4 * (1 + 1e-9), 0.0])
    assert screening.mean_ranks(a).tolist() == [4.5, 4.5, 2.5, 2.5, 1.0]


def test_contexts_are_ranked_by_themselves_and_averaged() -> None:
    c = sized([1, 2, 3, 30, 20, 10], [1, 2, 3, 1, 2, 3], contexts="aaabbb")
    table = evaluate(c, ["hits"]).table()
    mine = table[(table["metric"] == "effect_size_spearman") & table["scope"].isin(["context", "global"])]
    assert dict(zip(mine["key"], mine["value"], strict=True)) == pytest.approx(
        {"all": 0.0, "a": 1.0, "b": -1.0}
    )
    # A context of too few conditions has no say.
    d = sized([1, 2, 3, 30], [1, 2, 3, 1], contexts="aaab")
    assert overall(d, "effect_size_spearman") == pytest.approx(1.0)


def test_the_noise_of_few_cells_is_no_effect() -> None:
    """Conditions of few cells have large observed changes: the true effects rank right once the noise is out."""
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(40, 300)) * np.linspace(0.05, 1.0, 40)[:, None]
    s2 = np.where(np.arange(40) % 2, 0.01, 2.0)[:, None] * np.ones((1, 300))
    c = replace(comparison_of(effects + rng.normal(size=s2.shape) * np.sqrt(s2), effects), s2=s2)
    naive = replace(c, s2=np.zeros_like(s2), shared={}, observed_shared={})
    assert overall(c, "effect_size_spearman") > 0.9 > overall(naive, "effect_size_spearman") + 0.2
    assert overall(c, "screen_top_rank") < 0.1
    # Without noise the truth is best.
    exact = replace(naive, observed=effects, shared={}, observed_shared={})
    got = [overall(exact, n) for n in ("effect_size_spearman", "screen_top_rank", "screen_enrichment")]
    assert got == pytest.approx([1.0, 0.0, 10.0])


def test_the_observed_side_is_computed_once() -> None:
    c = with_error([[9.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]], 1.0)
    evaluate(c, ["hits"])
    first = c.observed_shared["hits.changed"]
    other = replace(c, predicted=-c.predicted, shared={})
    assert values(other, "direction_accuracy") == pytest.approx([0.0, 0.5])
    assert other.observed_shared["hits.changed"] is first
