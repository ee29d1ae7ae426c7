"""`metrics.json`: every panel in every scope, with a reason for what is undefined."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import PANELS, evaluate, headlines, metrics_json, of_groups
from tests.support.factories import comparison_of, prediction_of, screen, split_one
from tests.support.metric_cases import OWN, world


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
