"""Predictions that lie where the control of another context, or an average before the logarithm, would put them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perturbfm_core.data.simulate import SimulationConfig, simulate
from perturbfm_core.errors import PredictionError
from perturbfm_core.external.conversion import convert
from tests.external.raws import ASKED, Model

SIZES = {"n_obs": 900, "n_contexts": 2, "n_perts": 8, "n_combos": 4}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(simulate(SimulationConfig(name="ext", n_genes=60, **SIZES))[0])


@pytest.fixture(scope="module")
def mild():
    """Return a screen of weak effects, and a model of it."""
    ds = simulate(SimulationConfig(name="ext", n_genes=120, effect_size=0.5, **SIZES))[0]
    return ds, Model(ds)


def exchanged(model):
    """Return what would be predicted if the contexts were exchanged: the other control, with the same effect."""
    context = np.asarray([k.split("|")[0] for k in model.keys])
    other = {c: model.control[context != c][0] for c in set(context)}
    return np.stack([other[c] for c in context]) + model.delta * 0.3


@pytest.mark.parametrize("kind", ["expression", "delta"])
@pytest.mark.parametrize("rows", [slice(None), slice(3)])
def test_predictions_of_another_context_are_warned_of(model, kind, rows):
    mean = model.control + model.delta * 0.3
    mean[rows] = exchanged(model)[rows]
    raw = model.raw(mean if kind == "expression" else mean - model.control, kind=kind)
    (said,) = (w for w in convert(raw, model.asked).warnings if "another context" in w)
    n = len(mean[rows])
    assert said.startswith(
        f"{n} of {ASKED} predictions of raw.npz are much nearer to the control of another context"
    )
    assert f"{model.keys[0]} (C1)" in said


def test_effects_and_one_context_are_not_taken_for_another_context(model):
    for raw in (model.raw(), model.raw(model.delta * 3, kind="delta"), model.raw_with_own()):
        assert not any("another context" in w for w in convert(raw, model.asked).warnings)


def means(mild, form):
    """Return observed means of the conditions asked for [C, G]: of log1p, the log1p of means, or of counts per cell."""
    ds, model = mild
    cells = ds.expression.toarray()
    rows = [ds.condition_codes == ds.conditions.index.get_loc(key) for key in model.keys]
    if form == "logs":
        return np.stack([cells[r].mean(axis=0) for r in rows])
    linear = np.stack([np.expm1(cells[r]).mean(axis=0) for r in rows])
    return linear if form == "counts" else np.log1p(linear)


@pytest.mark.parametrize("form", ["expression", "counts", "delta"])
def test_the_log_of_a_mean_over_cells_is_warned_of(mild, form):
    model, mean = mild[1], means(mild, form)
    meta = {"space": "counts"} if form == "counts" else {}
    if form == "delta":
        mean, meta = mean - model.control, {"kind": "delta"}
    raw = model.raw(mean, **meta)
    assert any(
        "take log1p of each cell first, then the mean" in w for w in convert(raw, model.asked).warnings
    )
    # With a control made in the same way, what is scored has no such difference.
    own = np.expm1(model.own) if form == "counts" else model.own
    done = convert(replace(raw, control=own), model.asked, control="model")
    assert not any("take log1p of each cell first" in w for w in done.warnings)


def test_means_of_logs_and_changes_of_depth_are_not_taken_for_it(mild):
    model = mild[1]
    for mean in (means(mild, "logs"), np.log1p(np.expm1(model.expression) * 1.4), model.expression):
        assert not any("take log1p of each cell" in w for w in convert(model.raw(mean), model.asked).warnings)


def test_values_that_are_partly_at_other_genes_are_warned_of(model):
    order = np.arange(60)
    order[:18] = np.random.default_rng(0).permutation(18)
    done = convert(model.raw(model.expression[:, order]), model.asked)
    assert any("at partly other genes" in w for w in done.warnings)
    assert not any("other genes" in w for w in convert(model.raw(), model.asked).warnings)


def test_an_own_control_at_other_genes_shows_that_deltas_are_too(model):
    order = np.random.default_rng(1).permutation(60)
    raw = replace(model.raw(model.delta[:, order], kind="delta"), control=model.own[:, order])
    with pytest.raises(PredictionError, match="own control with its values at other genes than the real one"):
        convert(raw, model.asked)


@pytest.mark.parametrize(("factor", "said"), [(0.55, True), (0.8, False), (1.5, True)])
def test_another_depth_within_the_bounds_is_warned_of(model, factor, said):
    done = convert(model.raw(np.log1p(np.expm1(model.expression) * factor)), model.asked)
    assert (
        any("may be in another scale than the data set: its rows sum to" in w for w in done.warnings) == said
    )
