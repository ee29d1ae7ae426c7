"""The process with other screens' conditions: gains, nothing lost with useless donors, genes nobody measured, saved state."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from perturbfm_core.catalog.entries import SplitSpec
from perturbfm_core.data.table import condition_table
from perturbfm_core.graphs.donor import DonorEffects
from perturbfm_core.models.base import load_model, new_model, save_model
from perturbfm_core.models.perturbfm.core.donor_process import DonorProcess
from perturbfm_core.models.perturbfm.core.gaussian_process import SetProcess
from perturbfm_core.splits.freeze import freeze
from perturbfm_core.splits.view import Query, TrainView, query, train_view
from tests.support.factories import view_of
from tests.support.screen_pairs import knowledge, lent, pair, shuffled

FOLDS = SplitSpec(kind="perturbation_ood", folds=4, val_frac=0, calib_frac=0)


@cache
def case() -> tuple[TrainView, Query, np.ndarray]:
    target, _ = pair(0, 1.0, 15)
    split = freeze(target, FOLDS)[0]
    table = condition_table(target, split.rows(target, "test"))
    return train_view(target, split), query(target, table), table.delta["input"]


@cache
def donor(kind: str = "true") -> DonorEffects:
    target, given = pair(0, 1.0, 15)
    return lent(target, shuffled(given) if kind == "shuffled" else given)


def error(mean: np.ndarray) -> float:
    return float(((mean - case()[2]) ** 2).mean())


@cache
def alone(direct: str = "none") -> float:
    view, asked, _ = case()
    return error(SetProcess((), direct).choose(view).fit(view).predict(asked)[0])


def with_donor(one: DonorEffects, direct: str = "none") -> DonorProcess:
    view, _, _ = case()
    return DonorProcess((), direct, {"donor": one}).choose(view).fit(view)


def test_a_donor_of_the_same_genes_lowers_the_error_on_unseen_genes() -> None:
    assert error(with_donor(donor()).predict(case()[1])) < 0.9 * alone()


@pytest.mark.parametrize("direct", ["none", "constant"])
def test_a_donor_with_exchanged_names_costs_next_to_nothing(direct) -> None:
    """Its effects on its own targets are its own, so that they do not spoil those of train."""
    mean = with_donor(donor("shuffled"), direct).predict(case()[1])
    assert np.isnan(mean).all() or error(mean) < 1.03 * alone(direct)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_is_borrowed_that_inner_folds_are_not_sure_of(seed) -> None:
    view, asked, _ = case()
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=donor().effects.shape).astype(np.float32) * donor().effects.std()
    process = DonorProcess((), "none", {"donor": replace(donor(), effects=noise)}).choose(view)
    assert process.process.kernel.context == 1.0
    assert np.isnan(process.fit(view).predict(asked)).all()
    assert np.isnan(process.for_fold(view, 0).predict(asked)).all()


@pytest.mark.parametrize("controls", [True, False])
def test_contexts_that_share_effects_are_no_reason_to_borrow(controls) -> None:
    rng = np.random.default_rng(0)
    genes, names = 30, [f"P{i}" for i in range(12)]
    shared = rng.normal(0.0, 0.5, (len(names), genes))
    rows = [(f"c{c}", name) for c in range(5) for name in names]
    delta = np.tile(shared, (5, 1)) + rng.normal(0.0, 0.3, (len(rows), genes))
    levels = np.repeat(rng.gamma(2.0, 1.0, (5, genes)), len(names), axis=0)
    inner = [[i for i, (c, _) in enumerate(rows) if c == f"c{k}"] for k in range(5)]
    view = view_of(rows, delta, control=levels if controls else None, inner=inner)

    def chosen(effects: np.ndarray) -> DonorProcess:
        given = DonorEffects(
            "d",
            "0" * 64,
            tuple(names),
            np.zeros(len(names), dtype=np.int8),
            effects.astype(np.float32),
            np.ones(genes, dtype=np.bool_),
        )
        return DonorProcess((), "none", {"d": given}).choose(view)

    noise = rng.normal(0.0, 0.5, shared.shape)
    assert chosen(noise).process.kernel.context == 1.0
    assert chosen(shared + 0.2 * noise).process.kernel.context < 1.0


def test_genes_that_a_donor_lacks_are_left_to_others() -> None:
    one = donor()
    measured = one.measured.copy()
    measured[::11] = False
    mean = with_donor(replace(one, measured=measured)).predict(case()[1])
    assert np.isnan(mean[:, ~measured]).all()
    assert np.isfinite(mean[:, measured]).all()


def test_a_donor_of_other_directions_is_not_read() -> None:
    one = donor()
    mean = with_donor(replace(one, direction=-one.direction)).predict(case()[1])
    assert np.isnan(mean).all()


def test_train_conditions_do_not_decide_what_they_are_predicted_from() -> None:
    """Changing a held-out condition changes no prediction of the process of its fold."""
    view, _, _ = case()
    process = DonorProcess((), "none", {"donor": donor()}).choose(view)
    _, held = view.inner[0]
    changed = view.delta.copy()
    changed[held] += 1.0
    asked = view.subset(held).query()
    first = process.for_fold(view, 0).predict(asked)
    again = process.for_fold(replace(view, delta=changed), 0).predict(asked)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(("name", "params"), [("transfer_process", {}), ("perturbfm-v0", {"gate": "off"})])
def test_saved_models_predict_the_same(tmp_path, name, params) -> None:
    view, asked, _ = case()
    target, given = pair(0, 1.0, 15)
    model = new_model(name, {"borrow": ("donor",), **params})
    model.side_info = knowledge(target, donor=given)
    model.fit(view, 0)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    np.testing.assert_array_equal(again.predict(asked).mean, model.predict(asked).mean)


def test_a_donor_of_few_genes_does_not_take_those_of_another_away() -> None:
    view, asked, _ = case()
    few = np.zeros(len(view.genes), dtype=bool)
    few[:2] = True
    one = replace(donor(), name="few", measured=few)
    process = DonorProcess((), "none", {"few": one, "donor": donor()}).choose(view).fit(view)
    assert process.left_out == ("few",)
    assert process.summary()["donors_left_out"] == ["few"]
    assert np.array_equal(process.predict(asked), with_donor(donor()).predict(asked), equal_nan=True)


def test_donors_of_nearly_the_same_genes_stay_together() -> None:
    view, _, _ = case()
    most = donor().measured.copy()
    most[np.flatnonzero(most)[0]] = False
    process = (
        DonorProcess((), "none", {"a": donor(), "b": replace(donor(), name="b", measured=most)})
        .choose(view)
        .fit(view)
    )
    assert (process.left_out, process.summary()["genes"]) == ((), most.sum())


@pytest.mark.parametrize("n_genes", [1, 2])
def test_one_shared_gene_is_enough(n_genes) -> None:
    view, asked, _ = case()
    few = np.arange(len(view.genes)) < n_genes
    process = DonorProcess((), "none", {"few": replace(donor(), measured=few)}).choose(view).fit(view)
    assert np.isnan(process.predict(asked)[:, ~few]).all()
