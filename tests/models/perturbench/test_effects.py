"""PerturBench's networks: planted effects recovered, closed forms of the linear ones."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.models.base import new_model
from perturbfm_core.models.perturbench.design import Design
from perturbfm_core.splits.view import Query
from tests.support.factories import conditions_of, query_of, view_of
from tests.support.perturbench_networks import (
    GENES,
    PAIRS,
    SINGLES,
    asked,
    every_network,
    expression,
    fitted,
    planted,
    world,
)


@every_network
def test_planted_effects_are_recovered_and_beat_no_change(name: str) -> None:
    rows = [(c, p) for c in ("x", "y") for p in SINGLES]
    truth = np.asarray([planted(p) for _, p in rows])
    found = fitted(name).predict(asked(*rows)).mean
    error = float(((found - truth) ** 2).mean())
    assert error < 0.15 * float((truth**2).mean())
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.93


def test_an_unseen_pair_is_the_sum_of_its_singles_before_softplus() -> None:
    pair, none = PAIRS[-1], np.zeros((1, GENES), dtype=np.float32)
    model = fitted("linear_additive")
    weights = model.arrays()
    design = Design.from_meta(model.meta()["design"])
    p, c = design.read(conditions_of([("x", pair), ("x", "p1"), ("x", "p2")]))
    np.testing.assert_array_equal(p[0], p[1] + p[2])
    given = np.concatenate([p, c], axis=1) @ weights["network.effect.weight"].T
    shared = c[0] @ weights["network.effect.weight"][:, p.shape[1] :].T
    np.testing.assert_allclose(given[0], given[1] + given[2] - shared, atol=1e-5)
    found = model.predict(asked(("x", pair), ("y", pair))).mean
    truth = planted(pair)
    assert np.corrcoef(found.mean(axis=0), truth)[0, 1] > 0.95
    assert ((found - truth) ** 2).mean() < 0.5 * ((none - truth) ** 2).mean()


@every_network
def test_it_is_trained_on_cells_where_there_are_cells(name: str) -> None:
    _, view = world()
    training = fitted(name).training
    assert training["training"]["on"] == "cells"
    assert training["training"]["rows"] == int(view.n_cells.sum())
    assert training["choice of epochs"]["rows"] < training["training"]["rows"]
    assert training["training"]["epochs"] == training["choice of epochs"]["best_epoch"]
    assert training["variance"]["source"] == "out_of_fold"


@every_network
def test_predicted_expression_is_never_negative(name: str) -> None:
    rows = [(c, p) for c in ("x", "y", "z") for p in (*SINGLES, *PAIRS, "p0+p3", "unknown")]
    for shift in (-4.0, 0.0, 3.0):
        assert (expression(fitted(name), asked(*rows, shift=shift)) >= -1e-6).all()


def test_without_softplus_expression_may_be_negative() -> None:
    delta = np.full((2, 3), -1.0)
    view = view_of([("c", "A"), ("c", "B")], delta, control=np.ones((2, 3)))
    for softplus, negative in ((False, True), (True, False)):
        model = new_model(
            "linear_additive", {"softplus": softplus, "covariates": False, "epochs": 60, "lr": 0.05}
        )
        model.fit(view, 0)
        query = query_of([("c", "A+B")], 3, control=np.ones((1, 3)))
        assert bool((expression(model, query) < 0).all()) is negative


# ---- closed forms ----------------------------------------------------------------------------------------------


def test_the_linear_network_without_softplus_is_least_squares() -> None:
    rng = np.random.default_rng(2)
    rows = [("c", p) for p in ("A", "B", "C", "A+B", "B+C", "A+C")]
    delta = rng.normal(size=(6, 4))
    view = view_of(rows, delta, control=rng.random((6, 4)))
    options = {"softplus": False, "covariates": False, "weight_decay": 0.0, "min_steps": 1}
    model = new_model("linear_additive", {**options, "epochs": 600, "lr": 0.05})
    model.fit(view, 0)
    #        1  A  B  C
    design = np.asarray(
        [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 0, 1]], dtype=float
    )
    solution = np.linalg.lstsq(design, delta, rcond=None)[0]
    found = model.predict(Query(view.conditions, view.genes, view.control)).mean
    np.testing.assert_allclose(found, design @ solution, atol=2e-3)
    # The three together were never measured: one intercept and three effects; an unseen gene: the intercept.
    new = model.predict(query_of([("c", "A+B+C"), ("c", "Z")], 4, control=np.zeros((2, 4)))).mean
    np.testing.assert_allclose(new[0], solution.sum(axis=0), atol=1e-2)
    np.testing.assert_allclose(new[1], solution[0], atol=1e-2)


def test_the_linear_network_of_one_perturbation_inverts_softplus() -> None:
    # softplus(1 + w) = 3 for control 1 and delta 2: w = log(e^3 - 1) - 1.
    view = view_of([("c", "A")], [[2.0, -0.5]], control=[[1.0, 1.0]])
    model = new_model(
        "linear_additive",
        {"epochs": 1200, "lr": 0.05, "weight_decay": 0.0, "covariates": False, "min_steps": 1},
    )
    model.fit(view, 0)
    arrays = model.arrays()
    weight = arrays["network.effect.weight"][:, 0] + arrays["network.effect.bias"]
    np.testing.assert_allclose(weight, np.log(np.expm1([3.0, 0.5])) - 1.0, atol=2e-3)
    found = model.predict(query_of([("c", "A")], 2, control=[[2.0, 0.0]])).mean
    np.testing.assert_allclose(
        found, [np.log1p(np.exp(np.asarray([2.0, 0.0]) + weight)) - [2.0, 0.0]], atol=1e-4
    )


@pytest.mark.parametrize("contexts", [("x", "y"), ("x", "y", "w")])
def test_differences_without_controls_are_fitted_as_they_are(contexts: tuple[str, ...]) -> None:
    rows = [(c, p) for c in contexts for p in ("A", "B")]
    delta = np.asarray([[-1.0 - i, 0.5 * i, 2.0] for i in range(len(rows))])
    model = new_model("linear_additive", {"epochs": 600, "lr": 0.1, "min_steps": 1})
    model.fit(view_of(rows, delta), 0)
    # Additive in context and perturbation, as the values are.
    np.testing.assert_allclose(model.predict(query_of(rows, 3)).mean, delta, atol=0.05)


@pytest.mark.parametrize("control", [0.0, -1.5])
def test_z_scores_with_a_stated_control_may_be_negative(control: float) -> None:
    delta = np.asarray([[-1.0, 0.5, 2.0], [1.0, -2.0, 0.0]])
    rows, levels = [("c", "A"), ("c", "B")], np.full((2, 3), control)
    model = new_model("linear_additive", {"epochs": 600, "lr": 0.1, "min_steps": 1})
    model.fit(view_of(rows, delta, control=levels), 0)
    np.testing.assert_allclose(model.predict(query_of(rows, 3, levels)).mean, delta, atol=0.05)
