"""Training of PerturBench's networks: seeds, interruption, early stopping, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from perturbfm_core.errors import ModelError
from perturbfm_core.models.base import MODELS, applicable, load_model, new_model, save_model
from perturbfm_core.models.perturbench.controls import control_spread
from perturbfm_core.models.perturbench.pairs import CellPairs
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.splits.view import TrainView
from tests.support.factories import view_of
from tests.support.perturbench_networks import asked, every_network, fitted, world


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
