"""Axioms of every registered metric, and how a panel keeps account of what is undefined."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri

from perturbfm_core.data.prediction import Intervals
from perturbfm_core.errors import MetricError
from perturbfm_core.evaluation.comparison import Comparison, compare, observed
from perturbfm_core.evaluation.metric import METRICS, Metric, metric
from perturbfm_core.evaluation.panel import PANELS, add_panel, evaluate, headlines, metrics_json, of_groups
from perturbfm_core.schema import COVERAGE_LEVELS, SCORE_COLUMNS
from tests.support.factories import comparison_of, prediction_of, screen, simulated, split_one

# Panels of this project; those of peers have quirks of their own, and tests of their own.
OWN = ("delta", "uncertainty")
every_metric = pytest.mark.parametrize("item", [m for _, m in METRICS.items()], ids=METRICS.names())
own_metric = pytest.mark.parametrize(
    "item",
    [m for _, m in METRICS.items() if m.panel in OWN],
    ids=[n for n in METRICS.names() if n.split(".")[0] in OWN],
)


@lru_cache(maxsize=1)
def world() -> Comparison:
    """Return a comparison of a random prediction, with cells and train side, in two contexts."""
    ds = simulated(n_obs=900, n_genes=40, n_contexts=4, n_perts=5, n_combos=3, n_batches=2)
    split = split_one(ds, "context_ood", {"holdout": ["C0", "C1"]})
    truth = observed(ds, split)
    rng = np.random.default_rng(0)
    near = truth.observed + rng.normal(size=truth.observed.shape)
    given = prediction_of(ds, split, dict(zip(truth.conditions.index, near, strict=True)))
    var = rng.uniform(0.5, 2, given.var.shape).astype(np.float32)
    # Intervals of a Gaussian, as calibration would give them to one.
    z = ndtri(0.5 + np.asarray(COVERAGE_LEVELS) / 2)
    factor = np.broadcast_to(z[:, None, None], (len(z), len(given.mean), 1)).astype(np.float32)
    intervals = Intervals(np.asarray(COVERAGE_LEVELS), factor, np.zeros(ds.n_genes, dtype=np.int16))
    return compare(ds, split, replace(given, var=var, intervals=intervals))


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


# ---- a panel is complete or fails -------------------------------------------------------------------------


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Comparison], object]], None]:
    """Return a function that adds a metric `extra.odd`, gone after the test."""
    monkeypatch.setattr(METRICS, "_members", dict(METRICS._items))
    monkeypatch.setattr(PANELS, "_members", dict(PANELS._items))
    add_panel("extra", source="here", headline="odd")

    def add(function: Callable[[Comparison], object]) -> None:
        function.__doc__ = "An odd metric."
        register = metric(
            "extra", "odd", direction="max", bounds=(0.0, 1.0), version="1", source="here", undefined="odd"
        )
        register(function)

    return add


TWO = comparison_of(np.eye(2), np.eye(2))


def _raises(_: Comparison) -> np.ndarray:
    msg = "division by duck"
    raise ZeroDivisionError(msg)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        pytest.param(_raises, "metric extra.odd failed: ZeroDivisionError: division by duck", id="raises"),
        pytest.param(
            lambda _c: np.zeros(3), "metric extra.odd gave values of shape (3,); expected (2,)", id="shape"
        ),
        pytest.param(
            lambda _c: np.asarray([0.0, np.inf]),
            "metric extra.odd is infinite for 1 of 2 conditions",
            id="infinite",
        ),
        pytest.param(lambda _c: np.asarray(["a", "b"]), "could not convert string to float", id="text"),
    ],
)
def test_a_metric_that_goes_wrong_fails_the_panel(
    extra: Callable[..., None], function: Callable[[Comparison], object], message: str
) -> None:
    extra(function)
    with pytest.raises(MetricError, match=re.escape(message)):
        evaluate(TWO, ["delta", "extra"])


def test_the_cause_of_a_failed_metric_is_kept(extra: Callable[..., None]) -> None:
    extra(_raises)
    with pytest.raises(MetricError, match=r"extra\.odd") as caught:
        evaluate(TWO, ["extra"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_panel_without_its_headline_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PANELS, "_members", dict(PANELS._items))
    add_panel("bare", source="here", headline="nothing")
    with pytest.raises(MetricError, match=r"unknown metric 'bare\.nothing'"):
        evaluate(TWO, ["bare"])


def test_an_unknown_panel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        MetricError, match=r"unknown panel 'dleta' \(did you mean 'delta'\?\); known: .*uncertainty"
    ):
        evaluate(TWO, ["dleta"])


def test_a_metric_without_a_description_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METRICS, "_members", dict(METRICS._items))
    with pytest.raises(MetricError, match=r"metric delta\.mute has no docstring"):
        metric("delta", "mute", direction="max", bounds=(0, 1), version="1", source="here")(
            lambda c: c.predicted
        )


# ---- the table of scores ----------------------------------------------------------------------------------


@pytest.fixture
def table(extra: Callable[..., None]) -> pd.DataFrame:
    """Return the scores of a metric that is 1, undefined, 3 and 5 in conditions of two contexts."""
    rows = [("c", "A"), ("c", "B"), ("d", "A"), ("d", "A+B")]
    extra(lambda _c: np.asarray([1.0, np.nan, 3.0, 5.0]))
    four = comparison_of(np.eye(4), np.eye(4), rows=rows)
    return evaluate(four, ["extra"], strata={"seen": {"d|A+B|||": "2"}}).table()


def _rows(table: pd.DataFrame, scope: str) -> list[tuple[object, ...]]:
    part = table[table["scope"] == scope]
    columns = part[["key", "value", "n", "status", "reason"]].astype(object)
    return [tuple(None if v != v else v for v in row) for row in columns.itertuples(index=False)]


def test_every_condition_is_in_the_table(table: pd.DataFrame) -> None:
    assert _rows(table, "condition") == [
        ("c|A|||", 1.0, 1, "ok", None),
        ("c|B|||", None, 1, "undefined", "odd"),
        ("d|A|||", 3.0, 1, "ok", None),
        ("d|A+B|||", 5.0, 1, "ok", None),
    ]


def test_undefined_conditions_are_counted_and_not_dropped(table: pd.DataFrame) -> None:
    reason = "1 of {} conditions undefined: odd"
    assert _rows(table, "global") == [("all", 3.0, 4, "ok", reason.format(4))]
    assert _rows(table, "context") == [("c", 1.0, 2, "ok", reason.format(2)), ("d", 4.0, 2, "ok", None)]
    assert _rows(table, "perturbation") == [
        ("A", 2.0, 2, "ok", None),
        ("A+B", 5.0, 1, "ok", None),
        ("B", None, 1, "undefined", reason.format(1)),
    ]


def test_strata_hold_the_conditions_that_have_them(table: pd.DataFrame) -> None:
    assert _rows(table, "stratum") == [("seen=2", 5.0, 1, "ok", None)]


def test_the_table_has_the_columns_of_the_schema(table: pd.DataFrame) -> None:
    names = {"run_id", "dataset", "split_hash", "split_kind", "entry", "config_hash", "seed"}
    assert set(table.columns) == set(SCORE_COLUMNS) - names
    assert set(table["direction"]) == {"max"}
    assert set(table["metric_version"]) == {"1"}


def test_a_metric_that_is_undefined_everywhere_has_a_reason_everywhere(extra: Callable[..., None]) -> None:
    extra(lambda c: np.full(len(c), np.nan))
    everywhere = evaluate(TWO, ["extra"]).table()
    assert set(everywhere["status"]) == {"undefined"}
    assert everywhere["value"].isna().all()
    assert everywhere["reason"].notna().all()


@pytest.mark.parametrize("level", ["cell", "condition"])
def test_a_metric_of_cells_is_not_applicable_without_them(
    monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr(METRICS, "_members", dict(METRICS._items))
    monkeypatch.setattr(PANELS, "_members", dict(PANELS._items))
    add_panel("extra", source="here", headline="odd")

    @metric("extra", "odd", direction="max", bounds=(0.0, 1.0), version="1", source="here", needs="cells")
    def _odd(c: Comparison) -> np.ndarray:
        """An odd metric."""
        return np.ones(len(c))

    (without,) = evaluate(TWO, ["extra"], level=level).results
    assert (without.status, np.isnan(without.values).all()) == ("not_applicable", True)
    assert "no single cells" in (without.reason or "")
    (with_cells,) = evaluate(world(), ["extra"], level=level).results
    assert with_cells.status == ("ok" if level == "cell" else "not_applicable")


# ---- metrics.json -----------------------------------------------------------------------------------------


def test_metrics_json_holds_every_panel_in_every_scope() -> None:
    metrics = metrics_json(
        evaluate(
            world(), OWN, strata={"seen": {"C0|" + k.split("|", 1)[1]: "1" for k in world().conditions.index}}
        ).table()
    )
    assert set(metrics) == {*OWN, "notes"}
    perts = {k.split("|")[1] for k in world().conditions.index}
    for panel in OWN:
        names = {m.name for m in PANELS.get(panel).metrics}
        assert set(metrics[panel]["global"]) == names
        assert set(metrics[panel]["per_context"]) == {"C0", "C1"}
        assert set(metrics[panel]["per_perturbation"]) == perts
        assert set(metrics[panel]["per_stratum"]) == {"seen=1"}
        for scope in ("per_context", "per_perturbation", "per_stratum"):
            assert all(set(scores) == names for scores in metrics[panel][scope].values())
    json.dumps(metrics, allow_nan=False)


def test_metrics_json_gathers_the_coverage_by_level_and_the_nll() -> None:
    metrics = metrics_json(evaluate(world(), OWN).table())
    own = metrics["uncertainty"]
    assert own["coverage"] == {
        level: own["global"][f"coverage_{level}"] for level in ("0.5", "0.8", "0.9", "0.95")
    }
    assert own["nll"] == own["global"]["nll"]
    assert "top20" not in metrics["delta"]


def test_metrics_json_has_none_with_a_reason_for_what_is_undefined() -> None:
    train = np.random.default_rng(0).normal(size=30)
    rows = [("c", "A"), ("c", "B"), ("d", "A")]
    mean = np.stack([train, train, 2 * train])
    comparison = comparison_of(
        np.random.default_rng(1).normal(size=(3, 30)), mean, train_mean=train, rows=rows
    )
    metrics = metrics_json(evaluate(comparison, ["delta"]).table())
    reason = (
        "conditions undefined: prediction equals the train mean (or the observation does) up to a constant"
    )
    assert metrics["delta"]["per_perturbation"]["B"]["pearson_centered"] is None
    assert metrics["notes"]["delta.per_perturbation.B.pearson_centered"] == f"1 of 1 {reason}"
    assert metrics["delta"]["per_context"]["c"]["pearson_centered"] is None
    assert metrics["notes"]["delta.per_context.c.pearson_centered"] == f"2 of 2 {reason}"
    assert isinstance(metrics["delta"]["global"]["pearson_centered"], float)
    assert metrics["notes"]["delta.global.pearson_centered"] == f"2 of 3 {reason}"
    assert "delta.global.pearson" not in metrics["notes"]
    json.dumps(metrics, allow_nan=False)


def test_metrics_json_is_the_same_from_the_file_of_scores(tmp_path: object) -> None:
    scores = evaluate(world(), OWN).table()
    path = f"{tmp_path}/scores.parquet"
    scores.to_parquet(path, index=False)
    assert metrics_json(pd.read_parquet(path)) == metrics_json(scores)


def test_the_metrics_of_a_run_do_not_grow_with_its_conditions() -> None:
    strata = {"seen": dict.fromkeys(world().conditions.index, "1")}
    metrics = metrics_json(evaluate(world(), OWN, strata=strata).table())
    kept = of_groups(metrics)
    assert headlines(kept) == headlines(metrics)
    for panel in OWN:
        assert "per_perturbation" not in kept[panel]
        assert {k: v for k, v in metrics[panel].items() if k != "per_perturbation"} == kept[panel]
    assert not any(".per_perturbation." in place for place in kept["notes"])
    assert {k: v for k, v in metrics["notes"].items() if ".global." in k}.items() <= kept["notes"].items()
    assert of_groups(kept) == kept
    assert of_groups({}) == {}


CONSTANT = "conditions undefined: delta is constant over genes"


@pytest.mark.parametrize(
    ("of_all", "groups", "stays"),
    [
        ("all", "1 of 2", True),
        ("all", "all", False),
        # The same but for the number of conditions.
        (f"56 of 68 {CONSTANT}", f"17 of 17 {CONSTANT}", False),
        (f"56 of 68 {CONSTANT}", f"17 of 17 {CONSTANT}, or zero", True),
        (f"56 of 68 {CONSTANT}", "17 of 17 conditions not applicable: delta is constant over genes", True),
        (f"56 of 68 {CONSTANT}; 2 of 68 conditions not applicable: no", f"17 of 17 {CONSTANT}", True),
    ],
)
def test_a_reason_of_a_group_stays_where_it_is_its_own(of_all: str, groups: str, stays: bool) -> None:
    metrics = {
        "delta": {
            "global": {"mse": 1.0, "r2": None},
            "per_context": {"a.b": {"mse": None, "r2": None}, "c": {"mse": 2.0, "r2": None}},
        },
        "notes": {
            "delta.global.r2": of_all,
            "delta.per_context.a.b.mse": "none",
            "delta.per_context.a.b.r2": groups,
            "delta.per_context.c.mse": "1 of 3 undefined",
        },
    }
    expected = {"delta.global.r2", "delta.per_context.a.b.mse"} | (
        {"delta.per_context.a.b.r2"} if stays else set()
    )
    assert set(of_groups(metrics)["notes"]) == expected


def test_scores_of_condition_level_data_have_every_metric_or_a_reason() -> None:
    rows = [(p, c) for c in ("x", "y") for p in ("A", "B", "A+B")]
    ds = screen(
        rows, X=np.random.default_rng(0).normal(size=(6, 30)), genes=30, space="delta", level="condition"
    )
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    truth = observed(ds, split)
    given = prediction_of(ds, split, dict(zip(truth.conditions.index, truth.observed, strict=True)))
    table = evaluate(compare(ds, split, given), level="condition").table()
    assert set(
        table.loc[table["scope"] == "global", "panel"] + "." + table.loc[table["scope"] == "global", "metric"]
    ) == set(METRICS)
    lacking = table[table["value"].isna()]
    assert (lacking["reason"].str.len() > 0).all()
    assert (table.loc[table["value"].notna(), "status"] == "ok").all()
