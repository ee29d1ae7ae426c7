"""What every registered model must do."""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from perturbfm_core import schema
from perturbfm_core.data.dataset import PerturbDataset
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ConfigError, ModelError
from perturbfm_core.models.base import MODELS, Model, Requires, applicable, load_model, new_model, save_model
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.splits.split import FrozenSplit
from perturbfm_core.splits.view import Query, TrainView, train_view
from tests.support.factories import query_of, screen, simulated, split_one, view_of

# Models in environments of their own are fitted with what their split will ask: see tests/external.
every_model = pytest.mark.parametrize("name", [n for n, m in MODELS.items() if not m.asks_ahead])


@lru_cache(maxsize=1)
def world() -> tuple[PerturbDataset, FrozenSplit, TrainView, Query]:
    """Return a simulated screen with a held-out context, its train view, and the test conditions to predict."""
    ds = simulated(n_obs=500, n_genes=30, n_contexts=3, n_perts=6, n_combos=3, doses=[0.5, 2.0])
    split = split_one(ds, "context_ood", {"holdout": ["C0"]})
    view = train_view(ds, split)
    test = ds.conditions.iloc[np.unique(ds.condition_codes[split.rows(ds, "test")])]
    control = np.repeat(view.control[:1], len(test), axis=0) + np.float32(0.1)  # type: ignore[index]
    return ds, split, view, Query(test, ds.genes, control)


SEED = 3
# Networks on cells take seconds for what a few epochs show as well.
SHORT = {key: {"epochs": 4} for key in ("linear_additive", "latent_additive", "decoder_only")}


def newly_fitted(name: str, view: TrainView, seed: int = SEED) -> Model:
    """Return a model that was fitted for this call."""
    model = new_model(name, SHORT.get(name))
    model.fit(view, seed)
    return model


@cache
def _fitted(name: str) -> Model:
    return newly_fitted(name, world()[2])


def fitted(name: str) -> Model:
    """Return a private copy of the model fitted on the simulated train view, which is fitted once."""
    return copy.deepcopy(_fitted(name))


def equal(a: Prediction, b: Prediction) -> bool:
    """Return whether two predictions are the same to the last bit."""
    return np.array_equal(a.mean, b.mean) and np.array_equal(a.var, b.var)


def reversed_query(query: Query) -> Query:
    """Return the same conditions in reversed order."""
    control = None if query.control is None else query.control[::-1].copy()
    return Query(query.conditions.iloc[::-1], query.genes, control)


# ---- fitting and predicting -------------------------------------------------------------------------------


@every_model
def test_predictions_are_finite_with_a_positive_variance(name: str) -> None:
    query = world()[3]
    prediction = fitted(name).predict(query)
    for values in (prediction.mean, prediction.var):
        assert values.shape == (len(query), len(query.genes))
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    assert (prediction.var > 0).all()


@every_model
def test_the_same_seed_gives_the_same_prediction(name: str) -> None:
    view, query = world()[2], world()[3]
    assert equal(newly_fitted(name, view).predict(query), fitted(name).predict(query))


@every_model
def test_predicting_changes_nothing(name: str) -> None:
    query = world()[3]
    model = fitted(name)
    first = model.predict(query)
    first.mean[:] = -1.0
    first.var[:] = -1.0
    second = model.predict(query)
    assert (second.var > 0).all()
    assert equal(second, fitted(name).predict(query))


@every_model
def test_a_prediction_does_not_depend_on_the_conditions_beside_it(name: str) -> None:
    query = world()[3]
    model = fitted(name)
    whole, turned = model.predict(query), model.predict(reversed_query(query))
    np.testing.assert_allclose(turned.mean[::-1], whole.mean, rtol=1e-5, atol=1e-6)
    alone = model.predict(Query(query.conditions.iloc[:1], query.genes, query.control[:1]))  # type: ignore[index]
    np.testing.assert_allclose(alone.mean[0], whole.mean[0], rtol=1e-5, atol=1e-6)


@every_model
def test_the_order_of_train_conditions_does_not_matter(name: str) -> None:
    view, query = world()[2], world()[3]
    order = np.random.default_rng(0).permutation(len(view))
    moved = TrainView(
        conditions=view.conditions.iloc[order],
        genes=view.genes,
        delta=view.delta[order],
        s2=view.s2[order],
        n_cells=view.n_cells[order],
        control=view.control[order],  # type: ignore[index]
        inner=[(fit[order], held[order]) for fit, held in view.inner],
        unit=view.unit,
        dataset=view.dataset,
        allowed_rows=view.allowed_rows,
        fit_rows=view.fit_rows,
    )
    mine, other = fitted(name).predict(query), newly_fitted(name, moved).predict(query)
    np.testing.assert_allclose(other.mean, mine.mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other.var, mine.var, rtol=1e-3)


@every_model
def test_fitting_again_forgets_the_first_fit(name: str) -> None:
    view, query = world()[2], world()[3]
    small = view.subset(np.arange(len(view)) < 5)
    model = fitted(name)
    model.fit(small, 0)
    fresh = newly_fitted(name, small, 0)
    assert equal(model.predict(query), fresh.predict(query))
    assert model.training == fresh.training


@every_model
def test_the_variance_is_that_of_errors_on_held_out_conditions(name: str) -> None:
    view = world()[2]
    model = fitted(name)
    variance = model.training["variance"]
    assert variance["source"] == "out_of_fold"
    assert variance["inner_folds"] == len(view.inner)
    assert variance["conditions"] == sum(int(held.sum()) for _, held in view.inner)


@every_model
@pytest.mark.parametrize("n", [1, 2])
def test_a_handful_of_train_conditions_without_controls_is_enough(name: str, n: int) -> None:
    rng = np.random.default_rng(0)
    rows = [("c", "g0"), ("c", "B")][:n]
    requested = [("c", "g0"), ("d", "g0+B"), ("c", "Z")]
    # Unless the model starts from controls.
    control = np.ones((3, 4)) if MODELS.get(name).requires.controls else None
    inner = [[0], [1]][: 2 * (n - 1)]
    view = view_of(
        rows, rng.normal(size=(n, 4)), inner=inner, control=None if control is None else control[:n]
    )
    prediction = newly_fitted(name, view).predict(query_of(requested, 4, control))
    assert np.isfinite(prediction.mean).all()
    assert (prediction.var > 0).all()


@every_model
def test_delta_data_without_controls_can_be_fitted(name: str) -> None:
    rng = np.random.default_rng(1)
    rows = [(p, c) for c in ("x", "y", "z") for p in ("g0", "g1", "B", "g0+g1")]
    ds = screen(rows, X=rng.normal(size=(12, 6)), space="delta", level="condition")
    split = split_one(ds, "context_ood", {"holdout": ["x"]})
    test = ds.conditions.iloc[:4]
    assert (
        MODELS.get(name).requires.controls
        or np.isfinite(
            newly_fitted(name, train_view(ds, split)).predict(Query(test, ds.genes, None)).mean
        ).all()
    )


# ---- refusals ---------------------------------------------------------------------------------------------


@every_model
def test_other_genes_are_refused(name: str) -> None:
    query = world()[3]
    model = fitted(name)
    for genes in (query.genes[::-1].copy(), query.genes[:-1].copy()):
        requested = Query(query.conditions, genes, query.control)
        with pytest.raises(
            ModelError, match=f"{name!r} was fitted on 30 other genes than the {len(genes)} asked for"
        ):
            model.predict(requested)


@every_model
def test_an_unfitted_model_predicts_nothing(name: str) -> None:
    with pytest.raises(ModelError, match=f"model {name!r} is not fitted"):
        new_model(name).predict(world()[3])


@every_model
def test_an_empty_view_is_refused(name: str) -> None:
    view = world()[2]
    with pytest.raises(ModelError, match=f"model {name!r} got no train conditions"):
        new_model(name).fit(view.subset(np.zeros(len(view), dtype=np.bool_)), 0)


def test_values_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted("global_mean")
    monkeypatch.setattr(model, "_global", np.full(30, np.nan, dtype=np.float32))
    with pytest.raises(ModelError, match="'global_mean' predicts values that are not finite"):
        model.predict(world()[3])


@every_model
def test_unknown_parameters_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"parameters of model '{name}' is not a valid .*wheels"):
        new_model(name, {"wheels": 4})


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("linear", {"components": 0}, "components"),
        ("linear", {"penalty": 0.0}, "penalty"),
        ("latent_shift", {"components": 0}, "components"),
        ("ridge", {"control_components": -1}, "control_components"),
        ("global_mean", {"weights": "genes"}, "weights"),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, params: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        new_model(name, params)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match=r"unknown model 'addditive' \(did you mean 'additive'\?\); known: .*ridge"
    ):
        new_model("addditive")


@every_model
def test_a_model_has_its_name_a_family_and_a_description(name: str) -> None:
    kind = MODELS.get(name)
    assert kind.name == name
    assert kind.family in ("baseline", "learned")
    assert (kind.__doc__ or "").strip()


# ---- saving -----------------------------------------------------------------------------------------------


@every_model
def test_a_saved_model_predicts_the_same(name: str, tmp_path: Path) -> None:
    query = world()[3]
    model = fitted(name)
    save_model(model, tmp_path)
    back = load_model(tmp_path)
    assert equal(back.predict(query), model.predict(query))
    assert back.genes == model.genes
    assert back.training == model.training
    assert back.params == model.params
    again = tmp_path / "again"
    again.mkdir()
    save_model(back, again)
    for file in (schema.MODEL_FILE, schema.MODEL_META_FILE):
        assert (again / file).read_bytes() == (tmp_path / file).read_bytes()


@every_model
def test_saving_and_loading_never_pickle(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted(name)

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a model was pickled")

    for module in (pickle, sys.modules.get("_pickle")):
        for function in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
            monkeypatch.setattr(module, function, refuse, raising=False)
    save_model(model, tmp_path)
    load_model(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [schema.MODEL_META_FILE, schema.MODEL_FILE]
    assert json.loads((tmp_path / schema.MODEL_META_FILE).read_text())["model"] == name
    arrays = load_file(tmp_path / schema.MODEL_FILE)
    assert all(a.dtype.kind in "fiu" for a in arrays.values())


def _drop(path: Path, key: str) -> None:
    meta = json.loads(path.read_text())
    del meta[key]
    path.write_text(json.dumps(meta))


def _other_arrays(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    save_model(fitted("ridge"), other)
    (other / schema.MODEL_FILE).replace(folder / schema.MODEL_FILE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda f: (f / schema.MODEL_FILE).unlink(), "is missing or damaged", id="no arrays"),
        pytest.param(lambda f: (f / schema.MODEL_FILE).write_bytes(b"\x80\x04}."), "missing or damaged .*; train again", id="a pickle"),
        pytest.param(lambda f: (f / schema.MODEL_META_FILE).unlink(), "model.json does not exist", id="no names"),
        pytest.param(lambda f: (f / schema.MODEL_META_FILE).write_text("{"), "is not valid JSON", id="half the names"),
        pytest.param(lambda f: _drop(f / schema.MODEL_META_FILE, "model"), "does not hold a whole model .*'model'", id="no model"),
        pytest.param(lambda f: _drop(f / schema.MODEL_META_FILE, "genes"), "does not hold a whole model .*'genes'", id="no genes"),
        pytest.param(_other_arrays, "does not hold a whole model .*; train again", id="arrays of another model"),
    ],
)  # fmt: skip
def test_a_damaged_model_is_refused(tmp_path: Path, change: object, message: str) -> None:
    save_model(fitted("additive"), tmp_path)
    change(tmp_path)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_a_model_file_is_not_executable_code(tmp_path: Path) -> None:
    save_model(fitted("additive"), tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=r".+"):
        pickle.load(io.BytesIO((tmp_path / schema.MODEL_FILE).read_bytes()))


# ---- where a model can run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requires", "traits", "reason"),
    [
        pytest.param({}, {}, None, id="nothing"),
        pytest.param({"controls": True}, {"controls": False}, "needs control rows", id="controls"),
        pytest.param({"controls": True}, {"controls": True}, None, id="controls there"),
        pytest.param({"cells": True}, {"level": "condition"}, "needs single cells", id="cells"),
        pytest.param({"cells": True}, {"level": "cell"}, None, id="cells there"),
        pytest.param({"combos": True}, {"train_combos": 0}, "needs combinations in train", id="combinations"),
        pytest.param({"combos": True}, {"train_combos": 1}, None, id="combinations there"),
        pytest.param(
            {"min_contexts": 3}, {"train_contexts": 2}, "needs 3 train contexts, there are 2", id="contexts"
        ),
        pytest.param({"min_contexts": 3}, {"train_contexts": 3}, None, id="contexts there"),
    ],
)
def test_a_model_runs_only_where_its_needs_are_met(
    requires: dict[str, object], traits: dict[str, object], reason: str | None
) -> None:
    found = applicable(SplitTraits(**traits), Requires(**requires))  # type: ignore[arg-type]
    assert found is None if reason is None else (found or "").startswith(reason)
