"""Attacks on predictions, and what the headline score makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.table import condition_table
from perturbfm_core.evaluation.comparison import compare, observed
from perturbfm_core.evaluation.metric import METRICS
from perturbfm_core.evaluation.panel import evaluate
from perturbfm_core.evaluation.panels.calibrated import panel as calibrated
from perturbfm_core.evaluation.probes import ATTACKS, better, probe, with_prediction
from perturbfm_core.models.base import new_model
from perturbfm_core.splits.view import Query, train_view
from tests.support.attacks import ON_CELLS
from tests.support.factories import comparison_of, prediction_of, simulated, split_one

# The attacks that must not pay. `perturbed_mean_as_control` is not among them: see below.
FUTILE = (
    "added_noise",
    "double_amplitude",
    "swapped_controls",
    "log1p_twice",
    "constant_prediction",
    "train_mean_relabelled",
    "variance_inflation",
)
SPLITS = {
    "unseen context": ("context_ood", {"holdout": ["C0"]}, {}),
    "unseen combination": ("combo_ood", {}, {"folds": 4, "fold": 0}),
}


def predicted(model_name, kind, params, spec, seed=1):
    ds = simulated(n_obs=4000, n_genes=100, n_contexts=3, n_perts=12, n_combos=12, seed=seed)
    split = split_one(ds, kind, params, **spec)
    truth = observed(ds, split)
    model = new_model(model_name)
    model.fit(train_view(ds, split), 0)
    control = condition_table(ds, split.rows(ds, "test")).control.get("input")
    got = model.predict(Query(truth.conditions, ds.genes, control))
    by_key = dict(zip(truth.conditions.index, got.mean, strict=True))
    return compare(ds, split, prediction_of(ds, split, by_key), truth)


@pytest.mark.parametrize("model", ["additive", "ridge"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_headline_is_improved_by_no_known_attack(model, split):
    table = probe(predicted(model, *SPLITS[split]), ["calibrated"], attacks=FUTILE)
    headline = table[table["metric"] == "headline"].set_index("attack")
    assert headline["before"].iloc[0] > 0.5
    assert headline["reason"].isna().all()
    assert not headline["improved"].any(), headline[["before", "after"]]


def test_subtracting_the_train_mean_can_pay_and_the_probe_says_so():
    c = predicted("additive", "perturbation_ood", {}, {"folds": 4, "fold": 0})
    row = probe(c, ["calibrated"], attacks=["perturbed_mean_as_control"]).set_index("metric").loc["headline"]
    assert row["improved"]
    assert row["after"] > row["before"]
    # in the centred correlation it is half the amplitude, no more
    attacked = ATTACKS.get("perturbed_mean_as_control").function(c)
    halved = with_prediction(c, c.predicted / 2)
    same = [calibrated._raw(x)["pearson_centered_no_target"] for x in (attacked, halved)]
    assert same[0] == pytest.approx(same[1])


def test_every_attack_is_listed_and_described():
    assert {*FUTILE, *ON_CELLS, "perturbed_mean_as_control"} == set(ATTACKS.names())
    assert all(attack.description for _, attack in ATTACKS.items())


def test_attacks_leave_the_observation_and_the_original_alone():
    c = predicted("additive", *SPLITS["unseen context"])
    mean, var, truth = c.predicted.copy(), np.array(c.predicted_var), c.observed.copy()
    for name, attack in ATTACKS.items():
        attacked = attack.function(c)
        assert attacked is not None, name
        assert (attacked.observed == truth).all()
        assert (c.predicted == mean).all()
        assert (c.predicted_var == var).all()
        assert attacked.shared is not c.shared
        assert (attacked.cells.delta == attacked.predicted).all()
    doubled = ATTACKS.get("double_amplitude").function(c)
    assert doubled.predicted == pytest.approx(2 * mean)
    inflated = ATTACKS.get("variance_inflation").function(c)
    assert (inflated.predicted == mean).all()
    assert inflated.predicted_var == pytest.approx(4 * var)
    assert inflated.cells.generator.residual_noise
    constant = ATTACKS.get("constant_prediction").function(c)
    assert np.ptp(constant.predicted, axis=0).max() == 0


def test_an_attack_that_is_not_applicable_gives_its_reason():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 30))
    table = probe(comparison_of(truth, truth + 0.1, train_mean=rng.normal(size=30)), ["openproblems"])
    impossible = table[table["reason"].notna()]
    possible_of_deltas = {"perturbations_left_out"}
    assert set(impossible["attack"]) == {"swapped_controls", "log1p_twice", *ON_CELLS} - possible_of_deltas
    assert impossible["after"].isna().all()
    assert not impossible["improved"].any()


def test_a_planted_weak_metric_is_found():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4, 30))
    # half the truth: twice the amplitude is right
    table = probe(comparison_of(truth, truth / 2), ["openproblems"], attacks=["double_amplitude"])
    assert set(table[table["improved"]]["metric"]) == {"mean_rowwise_rmse", "mean_rowwise_mae"}


def test_an_improvement_within_the_spread_of_draws_is_none():
    metric = METRICS.get("delta.pearson_centered")
    assert better(metric, 0.5, 0.6)
    assert better(metric, 0.5, 0.6, margin=0.05)
    assert not better(metric, 0.5, 0.6, margin=0.2)
    error = METRICS.get("delta.rmse")
    assert better(error, 0.5, 0.4, margin=0.05)
    assert not better(error, 0.5, 0.4, margin=0.2)
    assert not better(error, 0.5, 0.6)


def test_noise_does_not_depend_on_the_order_of_conditions():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4, 30))
    a = comparison_of(truth, truth, rows=[("c", f"P{i}") for i in range(4)])
    order = [2, 0, 3, 1]
    b = comparison_of(truth[order], truth[order], rows=[("c", f"P{i}") for i in order])
    noise = ATTACKS.get("added_noise").function
    assert noise(b).predicted == pytest.approx(noise(a).predicted[order])
    assert list(evaluate(a, ["openproblems"]).conditions[schema.PERT_ID].astype(str)) == [
        "P0",
        "P1",
        "P2",
        "P3",
    ]
