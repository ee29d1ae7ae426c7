"""Ridge regression of log fold changes, against values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.metadata import Normalization
from perturbfm_core.errors import ModelError
from perturbfm_core.models.base import load_model, save_model
from perturbfm_core.models.baselines.fold_changes import LogFoldChanges, applied_fold_changes
from perturbfm_core.models.perturbfm.core.stack import Core
from perturbfm_core.splits.view import train_view
from tests.support.factories import grid_rows, query_of, screen, split_one, view_of, with_metadata
from tests.support.fitted_baselines import fitted

ROWS = [("x", "A"), ("y", "A"), ("x", "B"), ("y", "B")]
# Normalised levels of three genes in the controls of each condition; y hardly expresses the last one.
LEVELS = np.asarray([[8.0, 3.0, 40.0], [2.0, 5.0, 0.5]])[[0, 1, 0, 1]]
# What A and B multiply them by.
FACTORS = np.asarray([[2.0, 1.0, 0.1], [0.5, 3.0, 1.0]])[[0, 0, 1, 1]]


def table(inner=()):
    control = np.log1p(LEVELS)
    return view_of(ROWS, np.log1p(LEVELS * FACTORS) - control, control=control, inner=inner)


def predicted(rows, levels, **params):
    model = fitted("fold_change_ridge", table(), alphas=(1e-6,), control_components=0, **params)
    return np.expm1(model.predict(query_of(rows, 3, np.log1p(levels))).mean + np.log1p(levels))


@pytest.mark.parametrize("level", [[20.0, 0.4, 7.0], [0.1, 100.0, 0.2]])
def test_a_perturbation_multiplies_a_level_in_a_new_context_as_it_did_in_others(level):
    found = predicted([("z", "A"), ("z", "B")], np.asarray([level, level]), pseudocount=1e-6)
    np.testing.assert_allclose(found, np.asarray(level) * FACTORS[[0, 2]], rtol=1e-3)


def test_with_a_pseudocount_of_one_it_is_ridge():
    rows = [("z", "A"), ("x", "B"), ("z", "A+B"), ("z", "Q")]
    query = query_of(rows, 3, np.log1p(np.random.default_rng(0).gamma(2.0, 3.0, (4, 3))))
    found, ridge = (
        fitted(name, table(), alphas=(0.1,), **params).predict(query).mean
        for name, params in (("fold_change_ridge", {"pseudocount": 1.0}), ("ridge", {}))
    )
    # But that ridge may take a level below 0.
    least = -np.asarray(query.control)
    np.testing.assert_allclose(found, np.maximum(ridge, least), rtol=1e-4, atol=1e-5)


def test_levels_too_large_for_an_exponential_change_as_their_logarithms_do():
    control = np.full((2, 3), 900.0)
    view = view_of(
        [("x", "A"), ("x", "B")], np.asarray([[1.0, -2.0, 0.0], [0.0, 800.0, -1.0]]), control=control
    )
    changes = LogFoldChanges(view, 0.2).delta_columns(slice(None))
    np.testing.assert_allclose(changes, view.delta)
    np.testing.assert_allclose(applied_fold_changes(changes, control, 0.2), view.delta)


def test_what_a_context_does_not_express_can_neither_fall_nor_rise_by_much():
    silent = np.asarray([[8.0, 3.0, 0.0]])
    found = predicted([("z", "A")], silent)
    assert 0.0 <= found[0, 2] < 0.01
    by_ridge = fitted("ridge", table(), alphas=(1e-6,)).predict(query_of([("z", "A")], 3, np.log1p(silent)))
    assert by_ridge.mean[0, 2] < -0.5


def test_no_level_falls_below_zero():
    found = predicted([("z", "A+A2+A"), ("z", "A")], np.full((2, 3), 0.05))
    assert (found > -1e-6).all()


@pytest.mark.parametrize("pseudocount", [0.02, 0.2, 1.0, 3.0])
def test_fold_changes_and_deltas_are_inverse(pseudocount):
    view = table()
    logs = LogFoldChanges(view, pseudocount)
    assert len(logs) == 4
    assert logs.genes.tolist() == view.genes.tolist()
    both = np.concatenate([logs.delta_columns(slice(0, 2)), logs.delta_columns(slice(2, 3))], axis=1)
    expected = np.log((LEVELS * FACTORS + pseudocount) / (LEVELS + pseudocount))
    np.testing.assert_allclose(both, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        applied_fold_changes(both, view.control, pseudocount), view.delta, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("depth", "share"), [(100.0, 0.01), (1e3, 0.1), (1e4, 1.0), (1e6, 1.0)])
def test_the_pseudocount_is_in_proportion_to_a_depth_below_the_usual_one(depth, share, tmp_path):
    rows = grid_rows("ABCD", "xyz", reps=3, controls=8)
    ds = with_metadata(screen(rows), normalization=Normalization(target_sum=depth))
    view = train_view(ds, split_one(ds, "context_ood", {"holdout": ["z"]}))
    model = fitted("fold_change_ridge", view, alphas=(0.1,))
    save_model(model, tmp_path)
    plain = replace(view, dataset=None)
    stated = fitted("fold_change_ridge", plain, alphas=(0.1,), pseudocount=0.2 * share)
    for found in (model, load_model(tmp_path)):
        np.testing.assert_array_equal(found.predict(view.query()).mean, stated.predict(plain.query()).mean)


def test_a_saved_model_predicts_the_same(tmp_path):
    model = fitted("fold_change_ridge", table(), alphas=(0.1,))
    query = query_of([("z", "A"), ("z", "Q")], 3, np.log1p(LEVELS[:2]))
    save_model(model, tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).predict(query).mean, model.predict(query).mean)


@pytest.mark.parametrize(
    ("name", "components"), [("fold_change_ridge", 0), ("fold_change_ridge", 1), ("ridge", 1)]
)
def test_conditions_without_controls_are_refused_in_one_line(name, components):
    model = fitted(name, table(), alphas=(0.1,), control_components=components)
    with pytest.raises(ModelError, match=f"'{name}' was fitted with controls, and the"):
        model.predict(query_of([("z", "A")], 3))


@pytest.mark.parametrize(
    ("name", "params"),
    [("fold_change_ridge", {}), ("ensemble", {"model": "fold_change_ridge", "members": 2})],
)
def test_train_without_controls_is_refused_in_one_line(name, params):
    bare = view_of(ROWS, table().delta)
    with pytest.raises(ModelError, match="'fold_change_ridge' needs controls"):
        fitted(name, bare, **params)


def test_the_core_mixes_it_where_train_has_controls_and_leaves_it_out_where_not():
    inner = [[0, 2], [1, 3]]
    view = table(inner)
    assert "fold_change_ridge" in Core().fit(view, 0).names
    bare = view_of(ROWS, view.delta, inner=inner)
    assert "fold_change_ridge" not in Core().fit(bare, 0).names


@pytest.mark.parametrize("control", [-0.5, 0.0])
def test_the_core_leaves_it_out_where_controls_or_measurements_are_no_levels(control):
    rng = np.random.default_rng(0)
    rows = [(f"c{i}", n) for i in range(6) for n in "AB"]
    scores = rng.normal(0.0, 1.0, (len(rows), 5))
    inner = [[i for i in range(len(rows)) if i // 2 % 3 == j] for j in range(3)]
    view = view_of(rows, scores, control=np.full(scores.shape, control), inner=inner)
    core = Core().fit(view, 0)
    assert "fold_change_ridge" not in core.names
    assert np.isfinite(core.predict(view.query())[0]).all()


def test_the_core_takes_it_where_levels_differ_and_factors_do_not():
    rng = np.random.default_rng(3)
    names, genes = "ABCDEF", 40
    rows = [(f"c{i}", n) for i in range(12) for n in names]
    # Contexts express genes at levels that differ by orders of magnitude; only a factor is common to all.
    level = np.exp(rng.normal(0.0, 2.0, (12, genes)))[np.repeat(np.arange(12), len(names))]
    factor = np.exp(rng.normal(0.0, 1.0, (len(names), genes)))[np.tile(np.arange(len(names)), 12)]
    control = np.log1p(level)
    inner = [[i for i in range(len(rows)) if i // len(names) % 3 == j] for j in range(3)]
    core = Core().fit(view_of(rows, np.log1p(level * factor) - control, control=control, inner=inner), 0)
    least = min(core.errors, key=core.errors.get)
    assert least == "fold_change_ridge"
    assert core.summary()["members"]["all"]["fold_change_ridge"] > 0.5
