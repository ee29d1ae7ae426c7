"""Axioms of every registered metric, and how a panel keeps account of what is undefined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.evaluation.comparison import Comparison
from perturbfm_core.evaluation.metric import METRICS, Metric
from perturbfm_core.evaluation.panel import PANELS, evaluate
from tests.support.metric_cases import OWN, world

every_metric = pytest.mark.parametrize("item", [m for _, m in METRICS.items()], ids=METRICS.names())
own_metric = pytest.mark.parametrize(
    "item",
    [m for _, m in METRICS.items() if m.panel in OWN],
    ids=[n for n in METRICS.names() if n.split(".")[0] in OWN],
)


def values(comparison: Comparison, item: Metric) -> np.ndarray:
    """Return one metric of every condition, NaN where undefined or not applicable.

    A statistic of several conditions is that of the condition's context.
    """
    (result,) = [r for r in evaluate(comparison, [item.panel]).results if r.metric.name == item.name]
    if item.aggregate == "set":
        codes = np.unique(comparison.contexts, return_inverse=True)[1]
        return result.grouped(codes, int(codes.max()) + 1)[codes]
    return np.asarray(result.values)


def reordered(comparison: Comparison, order: np.ndarray) -> Comparison:
    """Return a comparison of the same conditions in another order, without cells."""
    per_condition = ("observed", "predicted", "predicted_var", "control", "n", "shared_control", "s2")
    changed = {name: None if (x := getattr(comparison, name)) is None else x[order] for name in per_condition}
    conditions = comparison.conditions.iloc[order]
    if comparison.intervals is not None:
        changed["intervals"] = comparison.intervals.rows(order)
    return replace(comparison, conditions=conditions, cells=None, shared={}, observed_shared={}, **changed)


# ---- what is declared -------------------------------------------------------------------------------------


@every_metric
def test_a_metric_declares_itself(item: Metric) -> None:
    assert METRICS.get(f"{item.panel}.{item.name}") is item
    assert item.panel in PANELS
    assert item.description
    assert item.version
    assert item.source
    assert item.undefined
    low, high = item.bounds
    assert low is None or high is None or low < high
    assert (item.target is not None) <= (item.direction == "target")


@pytest.mark.parametrize("name", PANELS.names())
def test_a_panel_has_its_headline_among_its_metrics(name: str) -> None:
    panel = PANELS.get(name)
    assert panel.headline in [m.name for m in panel.metrics]
    assert panel.source


@pytest.mark.parametrize(
    ("direction", "target", "better", "worse"),
    [("max", None, 0.9, 0.1), ("min", None, 0.1, 0.9), ("target", 0.5, 0.4, 0.8), ("target", 0.5, 0.6, 0.1)],
)
def test_badness_is_less_the_better_a_value_is(
    direction: str, target: float | None, better: float, worse: float
) -> None:
    item = Metric(
        "p", "m", lambda c: c.predicted, "A metric.", direction, (0.0, 1.0), "1", "s", target=target
    )  # type: ignore[arg-type]
    assert item.badness(better) < item.badness(worse)
    assert item.best == {"max": 1.0, "min": 0.0, "target": 0.5}[direction]


# ---- axioms -----------------------------------------------------------------------------------------------


@every_metric
def test_values_of_a_random_prediction_keep_to_the_bounds(item: Metric) -> None:
    found = values(world(), item)
    low, high = item.bounds
    # Held-out conditions of one context do not differ in novelty.
    assert np.isfinite(found).any() or item.panel not in OWN or item.name.startswith("ood_auroc")
    assert not (found < (-np.inf if low is None else low)).any()
    assert not (found > (np.inf if high is None else high)).any()


def has_a_best_value(item: Metric) -> bool:
    """Return whether a prediction without error is best: not where errors are ranked, or chosen by their size."""
    errors_matter = item.aggregate == "set" or item.name == "spearman_genes" or "_de_" in item.name
    return item.panel in OWN and item.best is not None and not errors_matter


@pytest.mark.parametrize(
    "item",
    [m for _, m in METRICS.items() if has_a_best_value(m)],
    ids=[n for n, m in METRICS.items() if has_a_best_value(m)],
)
def test_a_perfect_prediction_has_the_best_value(item: Metric) -> None:
    comparison = world()
    if item.direction == "target":
        # Perfect is calibrated: errors at the quantiles of the stated Gaussian.
        grid = np.quantile(np.random.default_rng(0).normal(size=200_001), (np.arange(40) + 0.5) / 40)
        perfect = replace(
            comparison,
            predicted=comparison.observed - grid,
            predicted_var=np.ones_like(comparison.observed),
            shared={},
        )
        assert values(perfect, item) == pytest.approx(item.target, abs=0.03)
        return
    assert item.best is not None
    var = np.zeros_like(comparison.observed)
    perfect = replace(comparison, predicted=comparison.observed.copy(), predicted_var=var, shared={})
    found = values(perfect, item)
    np.testing.assert_allclose(found, item.best, atol=1e-12)
    imperfect = values(comparison, item)
    assert all(item.badness(b) > item.badness(g) for g, b in zip(found, imperfect, strict=True) if b != g)
    assert (imperfect != found).any()


@own_metric
def test_the_order_of_genes_does_not_matter(item: Metric) -> None:
    comparison = world()
    order = np.random.default_rng(1).permutation(len(comparison.genes))
    columns = {
        name: getattr(comparison, name)[:, order] for name in ("observed", "predicted", "predicted_var", "s2")
    }
    side = comparison.train
    moved = replace(
        comparison,
        genes=comparison.genes[order],
        train_mean=comparison.train_mean[order],
        train=None if side is None else replace(side, delta=side.delta[:, order]),
        shared={},
        observed_shared={},
        **columns,
    )
    np.testing.assert_allclose(values(moved, item), values(comparison, item), rtol=1e-9)


@pytest.mark.parametrize(
    "item",
    [m for _, m in METRICS.items() if m.needs != "cells"],
    ids=[n for n, m in METRICS.items() if m.needs != "cells"],
)
def test_the_order_of_conditions_does_not_matter(item: Metric) -> None:
    plain = reordered(world(), np.arange(len(world())))
    order = np.random.default_rng(2).permutation(len(plain))
    np.testing.assert_allclose(values(reordered(plain, order), item), values(plain, item)[order], rtol=1e-9)


@own_metric
def test_a_condition_is_scored_whatever_other_contexts_hold(item: Metric) -> None:
    plain = world()
    mine = np.flatnonzero(plain.contexts == "C1")
    assert 0 < len(mine) < len(plain)
    np.testing.assert_allclose(values(reordered(plain, mine), item), values(plain, item)[mine], rtol=1e-9)


@own_metric
def test_scoring_changes_nothing_of_the_comparison(item: Metric) -> None:
    comparison = reordered(world(), np.arange(len(world())))
    before = {
        n: getattr(comparison, n).copy() for n in ("observed", "predicted", "predicted_var", "train_mean")
    }
    values(comparison, item)
    for name, array in before.items():
        assert np.array_equal(getattr(comparison, name), array), name
