"""Ensembles of any model: seeds, bags, and what members say together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perturbfm_core.catalog.entries import ModelEntry
from perturbfm_core.data.prediction import Prediction
from perturbfm_core.errors import ModelError
from perturbfm_core.models.base import load_model, new_model, save_model
from perturbfm_core.models.ensemble import bag, combine, member_seeds
from perturbfm_core.pipeline.opening import why_not
from perturbfm_core.splits.conditions import SplitConditions
from perturbfm_core.splits.index import SplitTraits
from perturbfm_core.splits.view import train_view
from tests.support.factories import conditions_of, query_of, simulated, split_one, view_of


def test_members_have_seeds_of_their_own() -> None:
    seeds = member_seeds(3, 20)
    assert len(set(seeds)) == 20
    assert seeds == member_seeds(3, 20)
    assert seeds[:5] == member_seeds(3, 5)
    assert not set(seeds) & set(member_seeds(4, 20))


def test_a_bag_holds_whole_units() -> None:
    units = [("A",), ("B",), ("A",), ("A", "B"), (), ("C",), ("D",), ("E",)]
    for seed in range(20):
        kept = bag(units, 0.6, seed)
        inside = {u for us, k in zip(units, kept, strict=True) if k for u in us}
        assert kept[0] == kept[2]
        assert kept[3] == ({"A", "B"} <= inside)
        assert kept[4]
        assert 2 <= len(inside) <= 3


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_bag_is_neither_empty_nor_whole(share: float) -> None:
    units = [(str(i),) for i in range(10)]
    assert 1 <= bag(units, share, 0).sum() <= 9


def test_a_share_of_one_or_a_single_unit_keeps_all() -> None:
    assert bag([(str(i),) for i in range(10)], 1.0, 0).all()
    assert bag([("A",), ("A",)], 0.5, 0).all()


def test_members_together_are_their_mixture() -> None:
    rng = np.random.default_rng(0)
    members = [Prediction(rng.normal(size=(2, 3)), rng.uniform(1, 2, size=(2, 3))) for _ in range(4)]
    found = combine(members)
    draws = np.concatenate([p.mean + np.sqrt(p.var) * rng.normal(size=(100_000, 2, 3)) for p in members])
    np.testing.assert_allclose(found.mean, np.mean([p.mean for p in members], axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.var, draws.var(axis=0), rtol=0.02)
    np.testing.assert_allclose(found.var_epistemic, np.var([p.mean for p in members], axis=0), rtol=1e-5)


def test_epistemic_variance_of_members_is_added() -> None:
    members = [Prediction(np.full((1, 1), m), np.ones((1, 1)), np.full((1, 1), 0.25)) for m in (0.0, 2.0)]
    assert combine(members).var_epistemic.tolist() == [[1.25]]  # type: ignore[union-attr]
    assert combine(members).var.tolist() == [[2.0]]


def test_conditions_without_a_prediction_and_warnings_of_members_are_kept() -> None:
    lacks = [np.asarray([True, False, True]), None, np.asarray([True, False, False])]
    one = np.ones((3, 2), dtype=np.float32)
    members = [
        Prediction(
            one * [[0], [k], [0 if k == 1 else k]],
            one * k,
            not_predicted=absent,
            warnings=("stand-ins", f"{k}"),
        )
        for k, absent in zip((1, 2, 3), lacks, strict=True)
    ]
    found = combine(members)
    # One of the members leaves the last condition out: the others speak for it.
    assert found.mean[:, 0].tolist() == [0.0, 2.0, 2.5]
    assert found.var[2, 0] == 2.5 + 0.25
    assert found.not_predicted is None
    assert found.warnings == ("stand-ins", "1", "2", "3")
    none = combine([members[0], members[2]])
    assert none.not_predicted is not None
    assert none.not_predicted.tolist() == [True, False, False]
    assert none.mean[:, 0].tolist() == [0.0, 2.0, 3.0]


def test_a_global_mean_of_bags_disagrees_as_bags_do() -> None:
    delta = np.arange(10.0)[:, None] * np.ones(3)
    view = view_of([("c", f"P{i}") for i in range(10)], delta, inner=[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    model = new_model("ensemble", {"model": "global_mean", "members": 6, "bag": 0.5})
    model.fit(view, 0)
    means = [delta[bag([(k,) for k in view.conditions.index], 0.5, s), 0].mean() for s in member_seeds(0, 6)]
    found = model.predict(query_of([("c", "N")], 3))
    assert found.mean[0, 0] == pytest.approx(np.mean(means))
    assert found.var_epistemic[0, 0] == pytest.approx(np.var(means), rel=1e-5)  # type: ignore[index]


@pytest.mark.parametrize("name", ["ridge", "additive", "latent_shift"])
def test_residuals_of_an_ensemble_are_of_ensembles_that_never_saw_the_condition(
    name: str, tmp_path: Path
) -> None:
    ds = simulated(n_obs=900, n_genes=40, n_contexts=1, n_perts=20, n_combos=0)
    split = split_one(ds, "perturbation_ood", {}, folds=4, fold=0, calibration="inner_cv")
    view = train_view(ds, split)
    model = new_model("ensemble", {"model": name, "members": 3})
    model.fit(view, 1)
    assert model.oof is not None
    assert len(model.oof) == len(view)
    for fold, seen in enumerate(model.oof.fitted):
        assert not seen & set(model.oof.conditions.index[model.oof.fold == fold])
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    requested = view.query()
    one, two = model.predict(requested), again.predict(requested)
    assert np.array_equal(one.mean, two.mean)
    assert np.array_equal(one.var_epistemic, two.var_epistemic)  # type: ignore[arg-type]
    # What an ensemble leaves out of a fold does not depend on the fold's truth.
    changed = view.delta.copy()
    changed[np.flatnonzero(view.inner[0][1])] += 50
    moved = type(view)(**{**vars(view), "delta": changed})
    other = new_model("ensemble", {"model": name, "members": 3})
    other.fit(moved, 1)
    first = model.oof.fold == 0
    assert other.oof is not None
    assert (
        np.array_equal(model.oof.prediction.mean[first], other.oof.prediction.mean[first]) or name == "ridge"
    )


def test_an_ensemble_runs_where_its_members_do() -> None:
    train, unseen = conditions_of([("c", "A")]), conditions_of([("c", "B")])
    network = new_model("ensemble", {"model": "linear_additive"})
    assert network.cannot(SplitConditions(train, train)) is None
    assert "needs perturbations that train has" in str(network.cannot(SplitConditions(train, unseen)))
    assert new_model("ensemble").absent() is None
    alone = new_model("transfer_ridge").absent()
    assert alone is not None
    assert new_model("ensemble", {"model": "transfer_ridge"}).absent() == alone


def test_a_model_that_cannot_be_asked_later_is_no_member() -> None:
    with pytest.raises(
        ModelError, match=r"'external-gears' is no member of an ensemble.*leave out --members"
    ):
        new_model("ensemble", {"model": "external-gears"})


def test_an_ensemble_requires_what_its_members_do() -> None:
    entry = ModelEntry(name="e", description="x", model="ensemble", params={"model": "fold_change_ridge"})
    assert (
        why_not(SplitTraits(controls=False), entry) == "needs control rows, the data set has differences only"
    )
    assert why_not(SplitTraits(), entry) is None
