"""Metrics of vectors that are constant up to rounding: undefined, with the reason."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from perturbfm_core.evaluation import rowwise
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.panel import evaluate
from tests.support.degenerate_screen import GENES, case, plain
from tests.support.factories import comparison_of, prediction_of

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
