"""PerturBench's networks: planted effects, closed forms, matched controls, what they cannot tell apart."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.matrix import Values
from perturbfm_core.data.metadata import DatasetMetadata, Normalization
from perturbfm_core.data.obs import make_obs
from perturbfm_core.errors import ConfigError, ModelError, SplitError
from perturbfm_core.models.base import MODELS, Model, applicable, load_model, new_model, save_model
from perturbfm_core.models.perturbench.controls import control_spread, has_cells
from perturbfm_core.models.perturbench.design import Design
from perturbfm_core.models.perturbench.pairs import CellPairs, ConditionPairs
from perturbfm_core.models.perturbench.predicting import Predictor
from perturbfm_core.splits.conditions import SplitConditions
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.splits.view import Query, TrainView, train_view
from tests.support.factories import conditions_of, grid_rows, query_of, screen, split_one, view_of

NETWORKS = ["linear_additive", "latent_additive", "decoder_only"]
every_network = pytest.mark.parametrize("name", NETWORKS)

GENES = 10
SINGLES = [f"p{i}" for i in range(6)]
PAIRS = ["p0+p1", "p2+p3", "p4+p5", "p1+p2"]
EFFECT = np.random.default_rng(5).normal(0, 0.8, size=(6, GENES)) * (
    np.random.default_rng(6).random((6, GENES)) < 0.5
)
BASE = {"x": np.linspace(2.0, 4.0, GENES), "y": np.linspace(4.5, 2.5, GENES)}
SHORT = {"epochs": 25, "lr": 1e-2, "patience": 25}


def planted(perturbation: str) -> np.ndarray:
    """Return the sum of the effects of the parts."""
    return sum((EFFECT[SINGLES.index(p)] for p in perturbation.split("+")), np.zeros(GENES))


@cache
def world() -> tuple[PerturbDataset, TrainView]:
    """Return cells of two contexts with planted additive effects, and the train view without the last pair."""
    rng = np.random.default_rng(0)
    rows = grid_rows([*SINGLES, *PAIRS], ["x", "y"], reps=15, controls=110)
    mean = [BASE[c] + (0 if p == schema.CONTROL else planted(p)) for p, c in rows]
    X = np.maximum(np.asarray(mean) + rng.normal(0, 0.3, size=(len(rows), GENES)), 0)
    ds = screen(rows, X=X, genes=GENES)
    table = {"train": list(ds.conditions.index[~(ds.conditions[schema.PERT_ID] == PAIRS[-1]).to_numpy()])}
    table["test"] = [k for k in ds.conditions.index if k not in table["train"]]
    split = split_one(ds, "explicit", {"folds": table}, validation="inner_cv")
    return ds, train_view(ds, split)


def all_but_t(ds: PerturbDataset) -> TrainView:
    """Return the train view of a split that tests the perturbation T."""
    return train_view(ds, split_one(ds, "explicit", {"folds": {"test": ["T"]}}, val_frac=0))


@cache
def _fitted(name: str) -> Model:
    model = new_model(name, SHORT)
    model.fit(world()[1], 1)
    return model


def fitted(name: str) -> Model:
    """Return a private copy of a network that is fitted once."""
    return copy.deepcopy(_fitted(name))


def asked(*rows: tuple[str, ...], shift: float = 0.0) -> Query:
    """Return conditions (context, perturbation, ...) with the base of their context as control."""
    control = [BASE.get(r[0], BASE["x"]) + shift for r in rows]
    return query_of(rows, GENES, control=control)


def expression(model: Model, query: Query) -> np.ndarray:
    """Return the predicted expression."""
    assert query.control is not None
    return model.predict(query).mean + query.control


# ---- planted effects -------------------------------------------------------------------------------------------


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
    delta = np.full((2, 3), -2.0)
    view = view_of([("c", "A"), ("c", "B")], delta, control=np.ones((2, 3)))
    for softplus, negative in ((False, True), (True, False)):
        model = new_model("linear_additive", {"softplus": softplus, "epochs": 60, "lr": 0.05})
        model.fit(view, 0)
        query = query_of([("c", "A")], 3, control=np.ones((1, 3)))
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


# ---- inputs ----------------------------------------------------------------------------------------------------


def test_doses_and_modalities_are_columns_and_amounts() -> None:
    rows = [
        ("c", "A", "drug", "1 uM"),
        ("c", "A", "drug", "10 uM"),
        ("c", "B", "CRISPRa"),
        ("c", "B", "CRISPRi"),
        ("c", "A+B", "drug", "1 uM+10 uM"),
    ]
    design = Design.of(conditions_of(rows))
    assert design.perturbations == ("A|drug", "B|CRISPRa", "B|CRISPRi", "B|drug")
    p, c = design.read(conditions_of([*rows, ("d", "Z", "drug", "1 uM")]))
    low = np.log1p(1.0) / np.log1p(10.0)
    expected = [[low, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [low, 0, 0, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(p, expected, rtol=1e-6)
    np.testing.assert_array_equal(c[:, 0], [1, 1, 1, 1, 1, 0])


def test_covariates_have_a_column_per_value() -> None:
    rows = [("c", "A", "", "", '{"sex":"f","time":"6h"}'), ("d", "A", "", "", '{"sex":"m","time":"6h"}')]
    design = Design.of(conditions_of(rows))
    assert design.covariates == ("context_id=c", "context_id=d", "sex=f", "sex=m", "time=6h")
    _, c = design.read(conditions_of([*rows, ("e", "A", "", "", '{"sex":"f","time":"24h"}')]))
    np.testing.assert_array_equal(c, [[1, 0, 1, 0, 1], [0, 1, 0, 1, 1], [0, 0, 1, 0, 0]])


@every_network
def test_perturbations_that_train_lacks_cannot_be_told_apart(name: str) -> None:
    model = fitted(name)
    one, other = model.predict(asked(("x", "u"), ("x", "v"))).mean
    np.testing.assert_allclose(one, other, atol=1e-6)
    seen, half = model.predict(asked(("x", "p0"), ("x", "p0+u"))).mean
    np.testing.assert_allclose(half, seen, atol=1e-6)


@every_network
@pytest.mark.parametrize(
    ("test", "refused"),
    [
        ([("x", "Z", "ko")], True),
        ([("x", "A+Z", "ko"), ("y", "Z", "ko")], True),
        ([("x", "A", "activation")], True),
        ([("x", "A+Z", "ko"), ("y", "A+B", "ko")], False),
        ([("new", "A", "ko", "5 uM")], False),
        ([], False),
    ],
)
def test_a_split_of_unseen_perturbations_only_is_not_applicable(
    name: str, test: list[tuple[str, ...]], refused: bool
) -> None:
    train = conditions_of([("x", "A", "ko"), ("y", "B", "ko")])
    conditions = SplitConditions(train, conditions_of(test))
    reason = new_model(name).cannot(conditions)
    assert (reason is not None) is refused
    if reason is not None:
        assert reason.startswith("needs perturbations that train has")
        assert f"each of the {len(test)} test conditions" in reason
    if name == "decoder_only":
        assert new_model(name, {"perturbations": False}).cannot(conditions) is None


def test_covariates_matter_to_the_decoder() -> None:
    rows = [(c, p) for c in ("x", "y") for p in SINGLES[:3]]
    both = fitted("decoder_only")
    found = expression(both, asked(*rows))
    truth = np.asarray([BASE[c] + planted(p) for c, p in rows])
    assert ((found - truth) ** 2).mean() < 0.1
    without = new_model("decoder_only", {**SHORT, "covariates": False})
    without.fit(world()[1], 1)
    found = expression(without, asked(*rows))
    np.testing.assert_allclose(found[:3], found[3:], atol=1e-5)
    context = new_model("decoder_only", {**SHORT, "perturbations": False, "epochs": 5})
    context.fit(world()[1], 1)
    found = expression(context, asked(*rows))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert not np.allclose(found[0], found[3], atol=0.1)


def test_the_decoder_does_not_read_the_control() -> None:
    model = fitted("decoder_only")
    low, high = (expression(model, asked(("x", "p0"), shift=s)) for s in (0.0, 1.0))
    np.testing.assert_allclose(low, high, atol=1e-5)
    assert not any(k.startswith("spread") for k in model.arrays())


def test_a_decoder_without_inputs_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs at least one of them"):
        new_model("decoder_only", {"covariates": False, "perturbations": False})


# ---- cells and their controls ----------------------------------------------------------------------------------


def batches(values: object = None) -> PerturbDataset:
    """Return a data set of two contexts and two batches, whose expression is the number of its row."""
    obs = [
        (p, c, b)
        for c in ("x", "y")
        for b in ("b0", "b1")
        for p in (schema.CONTROL, schema.CONTROL, "A", "B")
        if (p, c, b) != (schema.CONTROL, "y", "b1")
    ] + [("T", "x", "b0")]
    columns = dict(
        zip((schema.PERT_ID, schema.CONTEXT_ID, schema.BATCH_ID), zip(*obs, strict=True), strict=True)
    )
    X = np.repeat(np.arange(len(obs), dtype=np.float32)[:, None], 3, axis=1) if values is None else values
    meta = DatasetMetadata(name="batches")
    return PerturbDataset(
        make_obs({k: list(v) for k, v in columns.items()}, [f"r{i}" for i in range(len(obs))]),
        ["g0", "g1", "g2"],
        Values(expression=X),
        meta,
    )


def test_a_cell_is_paired_with_controls_of_its_batch_else_of_its_context() -> None:
    ds = batches()
    view = all_but_t(ds)
    pairs = CellPairs(view, None, 0)
    assert len(pairs) == 8
    batch, context = ds.obs[schema.BATCH_ID].astype(str), ds.obs[schema.CONTEXT_ID].astype(str)
    drawn: dict[int, set[int]] = {}
    torch.manual_seed(0)
    for _ in range(40):
        cells, controls = pairs.read(np.arange(len(pairs)))
        for i, (cell, control) in enumerate(zip(cells[:, 0], controls[:, 0], strict=True)):
            key = ds.conditions.index[ds.condition_codes[int(cell)]]
            assert view.conditions.index[pairs.condition[i]] == key
            drawn.setdefault(int(cell), set()).add(int(control))
    for cell, controls in drawn.items():
        same = ds.is_control & (context == context.iloc[cell]).to_numpy()
        if (context.iloc[cell], batch.iloc[cell]) != ("y", "b1"):
            same &= (batch == batch.iloc[cell]).to_numpy()
        # Every control of the pool is drawn at some time, none of another.
        assert controls == set(np.flatnonzero(same))


def test_a_subset_draws_no_control_of_a_context_that_it_lacks() -> None:
    _, view = world()
    part = view.subset((view.conditions[schema.CONTEXT_ID] == "x").to_numpy())
    pairs = CellPairs(part, None, 0)
    _, controls = pairs.read(np.arange(len(pairs)))
    np.testing.assert_allclose(controls.mean(axis=0), BASE["x"], atol=0.1)
    assert set(control_spread(part, 5, 0)) == {"x"}
    with pytest.raises(SplitError, match="must not read"):
        part.expression(np.flatnonzero(view.fit_rows & ~part.fit_rows))


def test_a_cap_draws_cells_once_and_by_the_seed() -> None:
    _, view = world()
    first, again, other = (CellPairs(view, 50, seed) for seed in (1, 1, 2))
    assert len(first) == 50
    np.testing.assert_array_equal(first.condition, again.condition)
    assert not np.array_equal(first.condition, other.condition)


def test_sparse_counts_are_read_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = grid_rows(["A", "B", "A+B", "T"], ["x", "y"], reps=20, controls=12)
    rng = np.random.default_rng(3)
    columns = {schema.PERT_ID: [r[0] for r in rows], schema.CONTEXT_ID: [r[1] for r in rows]}
    counts = sp.csr_matrix(rng.poisson(0.5, size=(len(rows), 8)).astype(np.float32))
    meta = DatasetMetadata(name="counts", space="counts", normalization=Normalization(target_sum=10.0))
    ds = PerturbDataset(
        make_obs(columns, [f"r{i}" for i in range(len(rows))]),
        [f"g{i}" for i in range(8)],
        Values(counts=counts),
        meta,
    )
    view = all_but_t(ds)
    made: list[int] = []
    dense = sp.csr_matrix.toarray
    kind = type(ds.expression)
    monkeypatch.setattr(kind, "toarray", lambda m, *a, **k: made.append(m.shape[0]) or dense(m, *a, **k))
    for name in NETWORKS:
        new_model(name, {"epochs": 1, "batch_size": 10, "control_cells": 8}).fit(view, 0)
    assert made
    assert max(made) <= 10


def test_means_of_conditions_are_used_without_cells() -> None:
    ds = screen([(p, "x") for p in (schema.CONTROL, "A", "B", "T")], level="condition")
    view = all_but_t(ds)
    assert not has_cells(view)
    assert has_cells(world()[1])
    model = new_model("latent_additive", {"epochs": 2})
    model.fit(view, 0)
    assert model.training["training"]["on"] == "conditions"
    perturbed, control = ConditionPairs(view).read(np.asarray([1, 0]))
    np.testing.assert_allclose(perturbed, ds.expression[[2, 1]], atol=1e-6)
    np.testing.assert_allclose(control, ds.expression[[0, 0]], atol=1e-6)


def test_a_prediction_is_the_mean_over_control_cells() -> None:
    class Square(torch.nn.Module):
        def forward(self, control: torch.Tensor, p: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return control**2 + p[:, :1]

    query = query_of(
        [("x", "A"), ("z", "A"), ("y", "B"), ("x", "B")], 1, control=[[2.0], [2.0], [1.0], [0.0]]
    )
    spread = {"x": np.asarray([[-1.0], [1.0]], np.float32), "y": np.asarray([[-3.0], [3.0]], np.float32)}
    predictor = Predictor(Design(("A|",)), spread, torch.device("cpu"))
    # Mean square = mean^2 + variance: 1 in x, 9 in y; z has every other cell of x and y (-1, -3), less their mean.
    expected = [[4 + 1 + 1 - 2], [4 + 1 + 1 - 2], [1 + 9 - 1], [0 + 1 - 0]]
    np.testing.assert_allclose(predictor.delta(Square(), query), expected, atol=1e-6)
    plain = Predictor(Design(("A|",)), {}, torch.device("cpu"))
    np.testing.assert_allclose(plain.delta(Square(), query), [[3.0], [3.0], [0.0], [0.0]], atol=1e-6)


def test_control_cells_are_centred_and_few() -> None:
    for name, cells in control_spread(world()[1], 16, 0).items():
        assert name in ("x", "y")
        assert cells.shape == (16, GENES)
        np.testing.assert_allclose(cells.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(cells.std(), 0.3, atol=0.05)


# ---- fitting ---------------------------------------------------------------------------------------------------


@every_network
def test_seeds_reproduce_and_differ(name: str) -> None:
    view, query = world()[1], asked(("x", "p0"), ("y", "p2+p3"))
    params = {"epochs": 2}

    def made(seed: int) -> np.ndarray:
        model = new_model(name, params)
        model._fit(view, seed)
        model.genes = list(view.genes)
        return model._mean(query)

    first = made(4)
    np.testing.assert_array_equal(first, made(4))
    assert not np.array_equal(first, made(5))


@every_network
def test_a_saved_network_predicts_the_same(name: str, tmp_path: object) -> None:
    model, query = fitted(name), asked(("x", "p0"), ("z", "p2+p3"), ("y", "u"))
    save_model(model, tmp_path)  # type: ignore[arg-type]
    back = load_model(tmp_path)  # type: ignore[arg-type]
    for a, b in zip(vars(model.predict(query)).values(), vars(back.predict(query)).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: object) -> None:
    view, query = world()[1], asked(("x", "p0"), ("y", "p1"))
    whole = new_model("latent_additive", {"epochs": 4})
    whole.fit(view, 2)
    epochs: list[str] = []
    stopped = new_model("latent_additive", {"epochs": 4})
    stopped.checkpoints = tmp_path  # type: ignore[assignment]

    def stop(report: object) -> None:
        epochs.append(report.phase)  # type: ignore[attr-defined]
        if report.phase == "inner fold 1":  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    stopped.on_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(view, 2)
    assert {"choice of epochs", "training"} <= set(epochs)
    again = new_model("latent_additive", {"epochs": 4})
    seen: list[str] = []
    again.checkpoints, again.on_epoch = tmp_path, lambda r: seen.append(r.phase)  # type: ignore[assignment]
    again.fit(view, 2)
    # What had finished is read from its checkpoint.
    assert "training" not in seen
    assert "inner fold 1" in seen
    np.testing.assert_array_equal(again.predict(query).mean, whole.predict(query).mean)
    np.testing.assert_array_equal(again.predict(query).var, whole.predict(query).var)


def test_the_validation_conditions_stop_the_training() -> None:
    rows = [("c", p) for p in ("A", "B", "C", "A+B")]
    rng = np.random.default_rng(0)
    delta, control = rng.normal(size=(4, 5)), np.full((4, 5), 3.0)
    base = view_of(rows, delta, control=control, inner=[[0], [1]])
    held = view_of([("c", "A+C")], -delta[:1] - delta[2:3], control=control[:1])
    view = TrainView(**{**vars(base), "validation": held})
    model = new_model("linear_additive", {"epochs": 60, "lr": 0.05, "patience": 3})
    model.fit(view, 0)
    record = model.training["training"]
    # The validation contradicts train, so that more training makes it worse.
    assert record["stopped_early"]
    assert record["epochs"] == record["best_epoch"] + 3
    assert "choice of epochs" not in model.training
    assert model.training["variance"]["inner_folds"] == 2


@every_network
def test_differences_only_are_not_what_it_is_made_for(name: str) -> None:
    kind = MODELS.get(name)
    assert kind.family == "learned"
    assert "needs control rows" in (applicable(SplitTraits(controls=False), kind.requires) or "")
    assert applicable(SplitTraits(level="condition"), kind.requires) is None


def test_pairs_of_cells_need_cells() -> None:
    view = view_of([("c", "A")], [[1.0]], control=[[1.0]])
    for read in (lambda: CellPairs(view, None, 0), lambda: control_spread(view, 3, 0)):
        with pytest.raises(ModelError, match="need a view with cells"):
            read()
