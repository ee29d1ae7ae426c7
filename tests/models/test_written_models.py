"""Models that users write: whatever fails in them is an error that names the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perturbfm_core import schema
from perturbfm_core.data.intervals import Intervals
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ConfigError, ModelError
from perturbfm_core.graphs.side_info import Needs
from perturbfm_core.models.base import MODELS, Model, load_model, new_model, save_model
from perturbfm_core.models.baselines.baseline import Baseline
from perturbfm_core.splits.view import Query, TrainView
from tests.support.factories import query_of, view_of

ROWS = [("c", "A"), ("c", "B"), ("d", "A"), ("d", "B")]
VIEW = view_of(ROWS, np.random.default_rng(0).normal(size=(4, 3)), inner=[[0, 1], [2, 3]])
QUERY = query_of([("e", "A"), ("e", "B")], 3)
NAME = r"model 'mine'[,: ]"


class Median(Baseline):
    """The median of the train conditions."""

    def _fit(self, view: TrainView, seed: int) -> None:
        self._median = np.median(view.delta, axis=0)

    def _mean(self, query: Query) -> Any:
        return np.tile(self._median, (len(query), 1))

    def _state_arrays(self) -> dict[str, Any]:
        return {"median": self._median}

    def _restore(self, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        self._median = arrays["median"]


class Whole(Model):
    """Zero, with a variance of one."""

    family = "baseline"

    def _fit(self, view: TrainView, seed: int) -> None:
        pass

    def _fit_variance(self, view: TrainView, seed: int) -> None:
        pass

    def _predict(self, query: Query) -> Any:
        return Prediction(mean=ones(query) * 0, var=ones(query))

    def arrays(self) -> Any:
        return {}

    def meta(self) -> Any:
        return {}

    def restore(self, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        pass


def ones(query: Query) -> Any:
    return np.ones((len(query), len(query.genes)), dtype=np.float32)


def intervals(rows: int, genes: int) -> Intervals:
    factor = np.ones((1, rows, 1), dtype=np.float32)
    return Intervals(np.asarray([0.9]), factor, np.zeros(genes, dtype=np.int16))


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the models of a test."""
    _ = len(MODELS)
    for name in ("_members", "_order"):
        monkeypatch.setattr(MODELS, name, dict(getattr(MODELS, name)))


def made(base: type[Model], **methods: Any) -> Model:
    MODELS.register("mine")(type("Mine", (base,), {"__module__": __name__, **methods}))
    return new_model("mine")


def _key(*_: Any) -> None:
    raise KeyError("gene")


def test_models_without_a_fault_fit_predict_and_load(tmp_path: Path) -> None:
    model = made(Median)
    model.fit(VIEW, 0)
    mean = model.predict(QUERY).mean
    np.testing.assert_allclose(mean[0], np.median(VIEW.delta, axis=0), rtol=1e-6)
    save_model(model, tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict(QUERY).mean, mean)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"_fit": _key}, r"_fit fails: KeyError: 'gene' \(.*test_written_models.py, line \d+\)"),
        ({"_fit": lambda self, view: None}, "_fit fails: TypeError: .*positional arguments"),
        ({"_mean": lambda s, q: np.full((len(q), 3), np.nan)}, "predicts values that are not finite"),
        ({"_mean": lambda s, q: np.full((len(q), 3), 1e300)}, "predicts values that are not finite"),
        ({"_mean": lambda s, q: np.zeros((3, len(q)))}, r"\[2 conditions, 3 genes\], found float64 \(3, 2\)"),
        ({"_mean": lambda s, q: np.zeros((len(q), 2))}, r"\[2 conditions, 3 genes\], found float64 \(2, 2\)"),
        ({"_mean": lambda s, q: np.zeros(3)}, r"found float64 \(3,\)"),
        ({"_mean": lambda s, q: None}, "_mean returned None"),
        ({"_mean": lambda s, q: [["a"] * 3] * len(q)}, "found <U1"),
        ({"_mean": lambda s, q: 1 / 0}, "_fit_variance fails: ZeroDivisionError: division by zero"),
    ],
)  # fmt: skip
def test_a_fault_in_fitting_names_the_model(methods: dict[str, Any], message: str) -> None:
    model = made(Median, **methods)
    with pytest.raises(ModelError, match=NAME + ".*" + message) as caught:
        model.fit(VIEW, 0)
    assert "\n" not in str(caught.value)


def test_the_cause_of_a_fault_is_kept_and_errors_of_the_package_pass() -> None:
    with pytest.raises(ModelError) as caught:
        made(Median, _fit=_key).fit(VIEW, 0)
    assert isinstance(caught.value.__cause__, KeyError)

    def refuse(*_: Any) -> None:
        raise ConfigError("not these data")

    MODELS.register("mine2")(type("Mine2", (Median,), {"__module__": __name__, "_fit": refuse}))
    with pytest.raises(ConfigError, match=r"^not these data$"):
        new_model("mine2").fit(VIEW, 0)


def test_a_fault_of_the_package_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model("global_mean")
    monkeypatch.setattr(type(model), "_fit", _key)
    with pytest.raises(KeyError, match="gene"):
        model.fit(VIEW, 0)


def test_a_member_that_cannot_be_saved_is_an_error_of_its_ensemble(tmp_path: Path) -> None:
    made(Median, _state_arrays=_key)
    model = new_model("ensemble", {"model": "mine", "members": 2})
    model.fit(VIEW, 0)
    with pytest.raises(ModelError, match=r"model 'ensemble', arrays\(\) fails: KeyError"):
        save_model(model, tmp_path)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (lambda self: None, r"__init__ fails: TypeError: .*__init__\(self, params\)"),
        (lambda self, params: None, r"must call super\(\).__init__\(params\)"),
    ],
)
def test_a_model_is_made_with_its_parameters(init: Callable[..., None], message: str) -> None:
    with pytest.raises(ModelError, match=NAME + ".*" + message):
        made(Median, __init__=init)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda q: ones(q), "must return a Prediction, found ndarray"),
        (lambda q: None, "must return a Prediction, found NoneType"),
        (lambda q: Prediction(ones(q), None), "`var` that _predict gives .*found NoneType"),  # type: ignore[arg-type]
        (lambda q: Prediction(ones(q).tolist(), ones(q)), "`mean` that _predict gives .*found list"),
        (lambda q: Prediction(ones(q)[:1], ones(q)[:1]), r"\[2 conditions, 3 genes\], found float32 \(1, 3\)"),
        (lambda q: Prediction(ones(q), ones(q)[:, :2]), r"`var` .*found float32 \(2, 2\)"),
        (lambda q: Prediction(ones(q).astype(str), ones(q)), "`mean` .*found <U"),
        (lambda q: Prediction(ones(q), -ones(q)), r"negative `var` \(-1\)"),
        (lambda q: Prediction(ones(q), ones(q) * np.inf), "not finite"),
        (lambda q: Prediction(ones(q), ones(q), ones(q)[:1]), r"`var_epistemic` .*found float32 \(1, 3\)"),
        (lambda q: Prediction(ones(q), ones(q), -ones(q)), "negative `var_epistemic`"),
        (lambda q: Prediction(ones(q), ones(q), 2 * ones(q)), "`var_epistemic` above `var`"),
        (lambda q: Prediction(ones(q), ones(q), not_predicted=np.zeros(3, dtype=bool)), r"`not_predicted` .*found bool \(3,\)"),
        (lambda q: Prediction(ones(q), ones(q), not_predicted=[True, False]), "`not_predicted` .*bool \\[2 cond"),  # type: ignore[arg-type]
        (lambda q: Prediction(ones(q), ones(q), intervals=5), "`intervals` .*found 5"),  # type: ignore[arg-type]
        (lambda q: Prediction(ones(q), ones(q), intervals=intervals(3, 3)), "`intervals` .* of these conditions and genes"),
        (lambda q: Prediction(ones(q), ones(q), intervals=intervals(2, 2)), "`intervals` .* of these conditions and genes"),
        (lambda q: Prediction(ones(q), ones(q), warnings="no"), "`warnings` .*tuple of sentences, found 'no'"),  # type: ignore[arg-type]
        (lambda q: Prediction(ones(q), ones(q), warnings=(3,)), r"`warnings` .*found \(3,\)"),  # type: ignore[arg-type]
        (lambda q: q.nothing, "_predict fails: AttributeError"),
    ],
)  # fmt: skip
def test_a_prediction_that_is_none_is_refused(predict: Callable[[Query], Any], message: str) -> None:
    model = made(Whole, _predict=lambda self, query: predict(query))
    model.fit(VIEW, 0)
    with pytest.raises(ModelError, match=NAME + ".*" + message):
        model.predict(QUERY)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"arrays": lambda s: {"x": np.asarray([{}, None])}}, "arrays of numbers by name, found object under 'x'"),
        ({"arrays": lambda s: {"x": np.asarray(["a"])}}, "arrays of numbers by name, found <U1 under 'x'"),
        ({"arrays": lambda s: {"x": [[1], [1, 2]]}}, "found object under 'x'"),
        ({"arrays": lambda s: {1: np.zeros(2)}}, "found float64 under 1"),
        ({"arrays": lambda s: None}, "must return a dictionary, found NoneType"),
        ({"arrays": _key}, r"arrays\(\) fails: KeyError"),
        ({"meta": lambda s: {"x": float("nan")}}, r"meta\(\) must be plain JSON with finite numbers"),
        ({"meta": lambda s: {"x": np.float32(1)}}, r"meta\(\) must be plain JSON .*float32"),
        ({"meta": _key}, r"meta\(\) fails: KeyError"),
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_saved_is_refused(tmp_path: Path, methods: Any, message: str) -> None:
    model = made(Whole, **methods)
    model.fit(VIEW, 0)
    with pytest.raises(ModelError, match=NAME + ".*" + message):
        save_model(model, tmp_path)


def test_a_state_that_was_not_saved_is_said_with_what_was(tmp_path: Path) -> None:
    model = made(Median, _state_arrays=lambda self: {"other": self._median})
    model.fit(VIEW, 0)
    save_model(model, tmp_path)
    with pytest.raises(
        ModelError, match=NAME + r".*restore fails: KeyError: 'median'.*saved other, var"
    ) as caught:
        load_model(tmp_path)
    assert "train again" not in str(caught.value)


def test_a_file_that_restoring_lacks_is_no_damaged_store(tmp_path: Path) -> None:
    def restore(self: Any, arrays: Any, meta: Any) -> None:
        (tmp_path / "weights.bin").read_bytes()

    model = made(Median, _restore=restore)
    model.fit(VIEW, 0)
    save_model(model, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        load_model(tmp_path)
    (tmp_path / schema.MODEL_FILE).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing or damaged .*train again"):
        load_model(tmp_path)


# Calls of the hooks, as the stages make them.
HOOKS: dict[str, Callable[[Any], Any]] = {
    **{
        name: lambda model, name=name: getattr(model, name)()
        for name in ("needs", "modules", "identity", "absent", "searchable", "condition_process")
    },
    "cannot": lambda model: model.cannot(None),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_fails_names_the_model(hook: str) -> None:
    model = made(Median, **{hook: _key})
    with pytest.raises(ModelError, match=NAME + rf".*{hook} fails: KeyError: 'gene' \(") as caught:
        HOOKS[hook](model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "wrong", "right"),
    [
        ("needs", {"graphs": ("x",)}, Needs()),
        ("modules", "mine", ("mine",)),
        ("modules", (3,), ("mine", "more")),
        ("identity", {"seed": 1}, {"seed": "1"}),
        ("absent", False, None),
        ("cannot", 3, "needs more"),
        ("searchable", ["alpha"], {}),
        ("condition_process", 3, None),
    ],
)
def test_a_hook_that_returns_something_else_is_said(hook: str, wrong: Any, right: Any) -> None:
    model = made(Median, **{hook: lambda self, *_: wrong})
    with pytest.raises(ModelError, match=NAME + rf".*{hook} must return .*, found "):
        HOOKS[hook](model)
    MODELS.register("other")(type("Other", (Median,), {"__module__": __name__, hook: lambda self, *_: right}))
    assert HOOKS[hook](new_model("other")) == right


def test_a_hook_that_is_inherited_names_the_model_that_is_asked() -> None:
    base = type(made(Median, needs=_key))
    MODELS.register("heir")(type("Heir", (base,), {"__module__": __name__}))
    with pytest.raises(ModelError, match=r"^model 'heir', needs fails: KeyError"):
        new_model("heir").needs()


def test_a_forgotten_state_is_said_when_it_is_read(tmp_path: Path) -> None:
    model = made(Median, _state_arrays=lambda self: {}, _restore=lambda self, arrays, meta: None)
    model.fit(VIEW, 0)
    save_model(model, tmp_path)
    with pytest.raises(ModelError, match=NAME + ".*AttributeError.*set by `_fit` and by restoring"):
        load_model(tmp_path).predict(QUERY)


def test_a_damaged_model_of_a_user_is_to_be_trained_again(tmp_path: Path) -> None:
    model = made(Median)
    model.fit(VIEW, 0)
    save_model(model, tmp_path)
    meta = json.loads((tmp_path / schema.MODEL_META_FILE).read_text())
    del meta["state"]
    (tmp_path / schema.MODEL_META_FILE).write_text(json.dumps(meta))
    with pytest.raises(ModelError, match=r"does not hold a whole model .*train again"):
        load_model(tmp_path)
