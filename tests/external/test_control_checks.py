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
    assert said.startswith(f"{n} of {ASKED} predictions are much nearer to the control of another context")
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


def controls_of(model) -> dict[str, np.ndarray]:
    """Return the control of each context that is asked for."""
    contexts = model.asked.conditions["context_id"].astype(str)
    return {c: model.control[(contexts == c).to_numpy()][0] for c in sorted(set(contexts))}


@pytest.mark.parametrize("taken", ["another", "all"])
def test_deltas_to_the_control_of_another_context_or_of_all_are_warned_of(model, taken):
    each = controls_of(model)
    first, second = sorted(each)[:2]
    base = each[second] if taken == "another" else np.mean(list(each.values()), axis=0)
    asked = replace(model.asked, controls=lambda: each)
    # Effects of few conditions do not average out as those of many do.
    made = model.control + 0.3 * model.delta
    (said,) = [w for w in convert(model.raw(made - base, kind="delta"), asked).warnings if "in common" in w]
    assert f"{first} (the control of {second if taken == 'another' else 'all contexts'})" in said
    for kept in (made - model.control, model.delta):
        done = convert(model.raw(kept, kind="delta"), asked, degenerate="flag")
        assert not any("in common" in w for w in done.warnings)


@pytest.mark.parametrize("ddof", [0, 1])
def test_z_scores_and_centred_values_are_no_deltas(model, ddof):
    away = model.delta - model.delta.mean(axis=0)
    rng = np.random.default_rng(0)
    rows = away + 0.1 * rng.normal(size=away.shape)
    rows -= rows.mean(axis=0)
    with pytest.raises(
        PredictionError, match=r"standard deviation of 1 over its 12 rows in 100% of the genes"
    ):
        convert(model.raw(rows / rows.std(axis=0, ddof=ddof), kind="delta"), model.asked)
    said = convert(model.raw(rows, kind="delta"), model.asked).warnings
    assert any("0 on average over the rows of the file at each gene" in w for w in said)
    assert not any(
        "on average over" in w for w in convert(model.raw(model.delta, kind="delta"), model.asked).warnings
    )


@pytest.mark.parametrize(("factor", "said"), [(0.55, True), (0.8, False), (1.5, True)])
def test_another_depth_within_the_bounds_is_warned_of(model, factor, said):
    done = convert(model.raw(np.log1p(np.expm1(model.expression) * factor)), model.asked)
    assert (
        any("may be in another scale than the data set: its rows sum to" in w for w in done.warnings) == said
    )
